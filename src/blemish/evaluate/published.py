"""What others have published, to be set beside what was measured here."""

import math
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Published", "find", "read"]


@dataclass(frozen=True, slots=True)
class Published:
    method: str
    backbone: str
    """Empty where the source does not name it."""
    dataset: str
    klass: str
    """`mean` for that of the whole data set."""
    metric: str
    value: float
    """In 0..1, as metrics are in records."""
    source: str


@cache
def read() -> tuple[Published, ...]:
    return tuple(
        Published(
            method=table["method"],
            backbone=table["backbone"],
            dataset=table["dataset"],
            klass=klass,
            metric=metric,
            value=round(percent / 100, 6),
            source=table["source"],
        )
        for table in _file()["table"]
        for klass, row in table["percent"].items()
        for metric, percent in zip(table["metrics"], row, strict=True)
        if not math.isnan(percent)
    )


def find(
    *, method: str, backbone: str | None, dataset: str, classes: Collection[str], metric: str
) -> tuple[float, str] | None:
    """The published mean over the very same classes, and its source."""
    name, n_classes = _recognise(dataset)
    method = _file()["method"].get(method, method)
    by_source: dict[str, dict[str, float]] = {}
    for number in read():
        asked = (number.method, number.dataset, number.metric) == (method, name, metric)
        if asked and number.backbone in ("", backbone):
            by_source.setdefault(number.source, {})[number.klass] = number.value
    for source, values in by_source.items():
        if "mean" in values and len(classes) == n_classes:
            return values["mean"], source
        if classes and set(classes) <= set(values):
            return sum(values[klass] for klass in classes) / len(classes), source
    return None


def _recognise(folder: str) -> tuple[str, int]:
    """The data set's own name and its number of classes, from the name of a folder."""
    for name, known in _file()["dataset"].items():
        if _plain(folder) in map(_plain, (name, *known["folders"])):
            return name, known["classes"]
    return folder, 0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(files("blemish.evaluate").joinpath("published.toml").read_text("utf-8"))
