"""How good a model is on test pictures: one record a class and one mean, in the schema of `blemish eval`.

Each picture goes the way that it goes on the line, `Inspector.inspect`, and the metrics see its raw score and
map. The maps wait on disk for the metrics, so that memory does not grow with the number of pictures.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from blemish.data import Role, Sample, Samples
from blemish.errors import DataError, OutputError
from blemish.evaluate.metrics import (
    Curve,
    ImageMetrics,
    PixelMetrics,
    image_metrics,
    pixel_metrics,
    pro_curve,
    rates,
    roc_curve,
)
from blemish.images import resize_mask
from blemish.model import Inspector, Verdict
from blemish.model.products import known

__all__ = [
    "COUNTS",
    "FIELDS",
    "GROUPS",
    "METRICS",
    "SETTINGS",
    "ClassEvaluation",
    "Evaluation",
    "Progress",
    "Record",
    "Tested",
    "evaluate",
    "given_class",
    "mean_record",
]

Record = dict[str, Any]
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable to show how far it is, given what is done and how many items there are."""

SETTINGS = ("dataset", "class", "method", "preset", "backbone", "size", "seed")
COUNTS = ("n_train", "n_calibration", "n_test")
RATES = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1max",
    "aupro30",
    "aupro05",
    "false_reject_rate",
    "miss_rate",
)
COSTS = ("fit_seconds", "ms_p50", "ms_p95", "ms_p99", "peak_rss_mb", "model_mb")
METRICS = RATES + COSTS
FIELDS = SETTINGS + COUNTS + METRICS
GROUPS = {
    "high": "mean, High",
    "low": "mean, Low",
    "many": "mean, 20 or more",
    "few": "mean, fewer than 20",
}
"""What tables call the groups of a long-tailed list's classes."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What the model said of one test picture, its map left out."""

    name: str
    kind: str
    bad: bool
    score: float
    verdict: Verdict
    threshold: float
    review_threshold: float
    p_value: float
    nearest: str | None
    ms: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassEvaluation:
    name: str
    record: Record
    tested: tuple[Tested, ...]
    roc: Curve
    pro: Curve
    """Up to a false-positive rate of 0.3."""
    unmarked: int
    """Bad pictures whose mask is absent or empty: no pixel metric counts them."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    classes: tuple[ClassEvaluation, ...]
    mean: Record
    groups: Mapping[str, Record]
    """Means over the head (`high`) and the tail (`low`) of a long-tailed list, and over its classes of 20
    images or more (`many`) and of fewer (`few`); empty without one."""
    tier: str | None = None
    """Which of its tiers the method ran in, in words, if it has any."""

    @property
    def records(self) -> list[Record]:
        return [klass.record for klass in self.classes]

    @property
    def gap(self) -> Record:
        """Rates of the head less those of the tail; empty without a long-tailed list."""
        if not {"high", "low"} <= self.groups.keys():
            return {}
        pairs = {field: (self.groups["high"][field], self.groups["low"][field]) for field in RATES}
        return {
            field: None if high is None or low is None else high - low for field, (high, low) in pairs.items()
        }

    def to_json(self) -> dict[str, Any]:
        told = {"schema": 1, "records": self.records, "mean": self.mean}
        told |= {"groups": dict(self.groups)} if self.groups else {}
        told |= {"gap": self.gap} if self.gap else {}
        return told | ({"tier": self.tier} if self.tier else {})


def evaluate(model: Inspector, samples: Samples, *, progress: Progress | None = None) -> Evaluation:
    """Inspect every test sample; training and calibration samples are not looked at."""
    test = samples.role(Role.TEST)
    if not test:
        raise DataError(
            f"{samples.name} has no test images: add some as test/good and test/<kind of defect>, "
            "or with the split test in a list."
        )
    if any(model.classes):
        for klass in test.classes:
            if klass and klass not in model.classes:
                raise DataError(
                    f"{samples.name} has the class {klass}, which {model.name} was not fitted on: "
                    f"{known(model.classes)} with --class, or fit a model with it."
                )
    elif len(test.classes) > 1:
        raise DataError(
            f"{samples.name} has several products, {test.classes[0]} for one, and {model.name} was "
            "fitted on one without a name: choose it with --class, or fit a model of all."
        )
    model.inspect(test[0].read(), name=test[0].name)  # opens the graph, which is no part of a picture's time
    classes = tuple(_evaluate_class(model, test, klass, progress or _silently) for klass in test.classes)
    # Every class was tested with the same model, so its training images are not added up.
    of_model = {field: model.manifest.get(field) for field in ("n_train", "n_calibration")}
    records = {klass.name: klass.record for klass in classes}
    groups = {}
    if samples.tail is not None and len(classes) > 1:
        for name, members in samples.tail.parts.items():
            if held := [records[klass] for klass in members if klass in records]:
                groups[name] = mean_record(held)
    tier = model.manifest.get("facts", {}).get("tier_in_words")
    return Evaluation(classes, mean_record(list(records.values())) | of_model, groups, tier)


def mean_record(records: Sequence[Record]) -> Record:
    """Metrics are averaged where they are known, counts added up, and settings kept where all agree."""
    mean: Record = {}
    for field in FIELDS:
        values = [record[field] for record in records]
        if field in SETTINGS:
            mean[field] = values[0] if values and all(value == values[0] for value in values) else None
        else:
            known = [value for value in values if value is not None]
            combine = np.sum if field in COUNTS else np.mean
            mean[field] = combine(known).item() if known else None
    return mean


class _Maps:
    """Anomaly maps and masks in a temporary file, read again at each call, one picture at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.shapes: list[tuple[int, ...]] = []

    def append(self, heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        self.shapes.append(heat.shape)
        try:
            self.file.write(heat.tobytes())
            self.file.write(mask.tobytes())
            self.file.flush()
        except OSError as error:
            raise OutputError(
                f"The anomaly maps cannot be kept in {tempfile.gettempdir()} ({error.strerror}): "
                "make room there, or name another folder in the environment variable TMPDIR."
            ) from error

    def __call__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        self.file.seek(0)
        for shape in self.shapes:
            count = int(np.prod(shape))
            heat = np.frombuffer(self.file.read(4 * count), np.float32).reshape(shape)
            yield heat, np.frombuffer(self.file.read(count), np.bool_).reshape(shape)


def _evaluate_class(model: Inspector, test: Samples, klass: str, progress: Progress) -> ClassEvaluation:
    samples = test.klass(klass)
    marked = any(sample.bad and sample.mask for sample in samples)
    given = given_class(model, klass)
    tested, unmarked = [], 0
    with tempfile.TemporaryFile() as file:
        maps = _Maps(file)
        for sample in progress(samples, f"inspect {klass or test.name}", len(samples)):
            begin = time.perf_counter()
            image = sample.read()
            result = model.inspect(image, name=sample.name, klass=given)
            ms = (time.perf_counter() - begin) * 1e3
            tested.append(
                Tested(
                    name=sample.name,
                    kind=sample.kind,
                    bad=sample.bad,
                    score=result.score,
                    verdict=result.verdict,
                    threshold=result.threshold,
                    review_threshold=result.review_threshold,
                    p_value=result.p_value,
                    nearest=result.nearest,
                    ms=ms,
                )
            )
            mask = _mask(sample, image.shape[:2], result.map.shape)
            if mask is None:
                unmarked += 1
            elif marked:
                maps.append(result.map, mask)
        pixels, pro = pixel_metrics(maps), pro_curve(maps)
    scores, bad = np.array([one.score for one in tested]), np.array([one.bad for one in tested])
    return ClassEvaluation(
        name=klass,
        record=_record(model, test.name, klass, tested, image=image_metrics(scores, bad), pixels=pixels),
        tested=tuple(tested),
        roc=roc_curve(scores, bad),
        pro=pro,
        unmarked=unmarked,
    )


def given_class(model: Inspector, klass: str) -> str | None:
    """What a model of several products is told: a folder of products says which one it is."""
    return klass if klass and len(model.classes) > 1 else None


def _mask(sample: Sample, shape: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """At the size of the map. An empty mask of a bad picture says as little as none."""
    height, width = size
    if not sample.bad:
        return np.zeros((height, width), bool)
    mask = sample.read_mask((shape[0], shape[1]))
    return None if mask is None or not mask.any() else resize_mask(mask, (height, width))


def _record(
    model: Inspector,
    dataset: str,
    klass: str,
    tested: Sequence[Tested],
    *,
    image: ImageMetrics,
    pixels: PixelMetrics,
) -> Record:
    scores, bad = [one.score for one in tested], [one.bad for one in tested]
    # Each picture's own: of products that DATA does not name the model finds out which one it shows.
    false_reject, miss = rates(scores, bad, [one.threshold for one in tested])
    p50, p95, p99 = np.percentile([one.ms for one in tested], (50, 95, 99)).tolist()
    known = {
        **model.manifest,
        "n_train": model.manifest.get("class_counts", {}).get(klass, model.manifest.get("n_train")),
        "n_calibration": model.manifest.get("calibration_counts", {}).get(
            klass, model.manifest.get("n_calibration")
        ),
        "dataset": dataset,
        "class": klass,
        "n_test": len(tested),
        **{f"image_{name}": value for name, value in asdict(image).items()},
        **{
            name if name.startswith("aupro") else f"pixel_{name}": value
            for name, value in asdict(pixels).items()
        },
        "false_reject_rate": false_reject,
        "miss_rate": miss,
        "ms_p50": p50,
        "ms_p95": p95,
        "ms_p99": p99,
        "model_mb": _megabytes(model),
    }
    return {field: known.get(field) for field in FIELDS}


def _megabytes(model: Inspector) -> float:
    archive = model.archive
    said = json.dumps([archive.manifest, archive.calibration], ensure_ascii=False)
    return (len(archive.graph) + len(archive.weights) + len(said)) / 1e6


def _silently(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    return items
