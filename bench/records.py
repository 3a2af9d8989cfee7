"""Results of the scripts in this folder: on disk as soon as they are there."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import nn

import blemish
from blemish import api, data
from blemish.data import Role, Samples
from blemish.evaluate import evaluate
from blemish.evaluate.bench import machine, versions
from blemish.evaluate.writing import write_text
from blemish.methods import Method, Run, create, quiet, silent
from blemish.model.archive import Archive
from blemish.model.products import Calibrations, Good
from blemish.nets.runtime import export

RESULTS = Path(__file__).resolve().parent / "results"
TOLD = ("image_auroc", "fit_seconds", "ms")
"""Of each record, as soon as it is there."""


class Store:
    """Records by what they are of, each with the processor that it is from.

    Those of other libraries are not gone on with, nor, where `times` are what is compared, those of another
    machine.
    """

    def __init__(self, path: Path, *, times: bool = False) -> None:
        self.path, self.here = path, {"machine": machine(), "versions": versions()}
        held = json.loads(path.read_text("utf-8")) if path.exists() else {}
        wanted = ("versions", "machine") if times else ("versions",)
        same = all(held.get(name) == self.here[name] for name in wanted)
        self.records: list[dict[str, Any]] = held["records"] if same else []

    def has(self, key: dict[str, Any]) -> bool:
        return any(key.items() <= record.items() for record in self.records)

    def add(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        of = {name: value for name, value in record.items() if name not in key}
        self.records.append({**key, **of, "cpu": self.here["machine"]["cpu"]})
        result = {"schema": 1, "records": self.records, **self.here}
        write_text(self.path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        told = (f"{name} {record[name]:.4g}" for name in TOLD if name in record)
        print(*key.values(), *told, flush=True)


def measured(model: blemish.Inspector, folder: Path) -> dict[str, Any]:
    return evaluate(model, data.read(folder)).records[0]


class Bare(NamedTuple):
    """As it was learned: neither exported nor calibrated."""

    train: Samples
    run: Run
    method: Method
    scorer: nn.Module
    seconds: float

    def judging(self) -> blemish.Inspector:
        """Scores as a model of `blemish.fit` does; verdicts mean nothing, for nothing calibrated it."""
        run, method = self.run, self.method
        archive = Archive(
            manifest=api.describe(method, self.train, self.train.with_items([]), run)
            | {"fit_seconds": round(self.seconds, 2), "peak_rss_mb": api.peak_rss_mb()},
            graph=export(self.scorer, run.format.channels, run.size, method.outputs),
            calibration=Calibrations.of([Good(0.0, 0.0), Good(1.0, 1.0)]).to_json(),
            weights=save(method.weights(self.scorer)),
        )
        return blemish.Inspector(archive)


def bare(
    samples: Samples,
    method: str,
    preset: str,
    options: dict[str, Any],
    *,
    size: tuple[int, int],
    seed: int = 0,
    cache: Path | None = None,
) -> Bare:
    begin = time.perf_counter()
    good = samples.role(Role.TRAIN)
    train, decoded, fmt = api.decode(good, size, skip_bad=False, progress=quiet, say=silent)
    run = Run(size=size, format=fmt, seed=seed, preset=preset, decoded=decoded, cache=cache)
    chosen = create(method, preset, options)
    scorer = chosen.fit(train, run)
    return Bare(train, run, chosen, scorer, time.perf_counter() - begin)
