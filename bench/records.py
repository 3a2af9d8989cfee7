"""Results of the scripts in this folder: on disk as soon as they are there."""

import json
from pathlib import Path
from typing import Any

import blemish
from blemish import data
from blemish.evaluate import evaluate
from blemish.evaluate.bench import machine, versions
from blemish.evaluate.writing import write_text

RESULTS = Path(__file__).resolve().parent / "results"
TOLD = ("image_auroc", "fit_seconds", "ms")
"""Of each record, as soon as it is there."""


class Store:
    """Records by what they are of. Those of another machine or of other libraries are not gone on with."""

    def __init__(self, path: Path) -> None:
        self.path, self.here = path, {"machine": machine(), "versions": versions()}
        held = json.loads(path.read_text("utf-8")) if path.exists() else {}
        same = all(held.get(name) == value for name, value in self.here.items())
        self.records: list[dict[str, Any]] = held["records"] if same else []

    def has(self, key: dict[str, Any]) -> bool:
        return any(key.items() <= record.items() for record in self.records)

    def add(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        self.records.append(key | {name: value for name, value in record.items() if name not in key})
        result = {"schema": 1, "records": self.records, **self.here}
        write_text(self.path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        told = (f"{name} {record[name]:.4g}" for name in TOLD if name in record)
        print(*key.values(), *told, flush=True)


def measured(model: blemish.Inspector, folder: Path) -> dict[str, Any]:
    return evaluate(model, data.read(folder)).records[0]
