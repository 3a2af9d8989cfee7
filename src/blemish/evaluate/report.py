"""An evaluation as one HTML page that needs nothing else: no network, no script, no other file."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.data import Sample, Samples
from blemish.errors import MissingExtraError
from blemish.evaluate.evaluation import (
    GROUPS,
    ClassEvaluation,
    Evaluation,
    Record,
    Tested,
    given_class,
)
from blemish.evaluate.metrics import Curve, image_metrics
from blemish.evaluate.writing import write_text
from blemish.model import Inspector, Verdict

__all__ = ["write_report"]

SHOWN, SHOWN_OF_MANY = 6, 3  # pictures in each gallery, and where there are several classes
EDGE = 320  # pixels of a picture's longer side
BINS = 48
LEFT, RIGHT, TOP, BOTTOM = 60, 378, 14, 222  # of the plotting area in a chart of 400 × 266


def write_report(evaluation: Evaluation, model: Inspector, samples: Samples, path: str | Path) -> None:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "train", "An HTML report") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blemish.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number}
    by_name = {sample.name: sample for sample in samples}
    shown = SHOWN if len(evaluation.classes) == 1 else SHOWN_OF_MANY
    page = environment.get_template("report.html").render(
        model=model,
        mean=evaluation.mean,
        tier=evaluation.tier,
        groups=[(record, GROUPS[name]) for name, record in evaluation.groups.items()],
        gap=evaluation.gap and {**dict.fromkeys(evaluation.mean), **evaluation.gap},
        sections=[_section(klass, model, by_name, shown) for klass in evaluation.classes],
        verdicts=list(Verdict),
    )
    write_text(Path(path), page)


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, drawn from one pixel to another."""

    label: str
    low: float
    high: float
    start: int
    end: int
    ticks: Sequence[tuple[float, str]]

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    bad: bool
    told: str


class Histogram(NamedTuple):
    x: Axis
    y: Axis
    bars: list[Bar]
    limits: list[tuple[float, float]]
    """From where on pictures are reviewed and rejected: of each product that the model took them for."""


class Line(NamedTuple):
    x: Axis
    y: Axis
    points: str
    chance: str
    marked: tuple[float, float] | None


class Kind(NamedTuple):
    name: str
    total: int
    verdicts: dict[Verdict, int]
    auroc: float | None
    """Of this kind alone against the good."""


class Picture(NamedTuple):
    tested: Tested
    size: tuple[int, int]
    original: str
    overlay: str


class Gallery(NamedTuple):
    title: str
    told: str
    pictures: list[Picture]


class Section(NamedTuple):
    name: str
    record: Record
    unmarked: int
    kinds: list[Kind]
    histogram: Histogram
    roc: Line | None
    pro: Line | None
    galleries: list[Gallery]


def _section(klass: ClassEvaluation, model: Inspector, by_name: dict[str, Sample], shown: int) -> Section:
    record = klass.record
    false_reject, miss = record["false_reject_rate"], record["miss_rate"]
    working_point = None if false_reject is None or miss is None else (false_reject, 1 - miss)
    return Section(
        name=klass.name,
        record=record,
        unmarked=klass.unmarked,
        kinds=_kinds(klass.tested),
        histogram=_histogram(klass.tested),
        roc=_line(klass.roc, ("good parts rejected", "bad parts rejected"), 1.0, working_point),
        pro=_line(klass.pro, ("good pixels above threshold", "mean share of each defect found"), 0.3),
        galleries=_galleries(klass.tested, model, by_name, shown),
    )


def _kinds(tested: Sequence[Tested]) -> list[Kind]:
    good = [one for one in tested if not one.bad]
    names = sorted({(one.bad, one.kind) for one in tested})
    kinds = []
    for bad, name in names:
        of_kind = [one for one in tested if (one.bad, one.kind) == (bad, name)]
        ranked = [*good, *of_kind] if bad else []
        kinds.append(
            Kind(
                name=name,
                total=len(of_kind),
                verdicts={verdict: sum(one.verdict is verdict for one in of_kind) for verdict in Verdict},
                auroc=image_metrics([one.score for one in ranked], [one.bad for one in ranked]).auroc,
            )
        )
    return kinds


def _histogram(tested: Sequence[Tested]) -> Histogram:
    """Good parts upwards and bad ones downwards, so that neither hides the other; counts on a log scale."""
    limits = sorted({(one.review_threshold, one.threshold) for one in tested})
    scores = np.array([one.score for one in tested])
    span = [*scores.tolist(), *(limit for pair in limits for limit in pair)]
    margin = 0.02 * (max(span) - min(span)) or abs(span[-1]) or 1.0
    low, high = min(span) - margin, max(span) + margin
    bad = np.array([one.bad for one in tested])
    good_counts, edges = np.histogram(scores[~bad], BINS, (low, high))
    bad_counts, _ = np.histogram(scores[bad], BINS, (low, high))
    x = Axis("score", low, high, LEFT, RIGHT, _ticks(low, high))
    highest = _height(1.15 * max(int(good_counts.max()), int(bad_counts.max()), 1))
    labelled = (1, 3, 10, 30) if highest < 2 else (10, 100, 1000, 10000, 100000)
    steps = [count for count in labelled if _height(count) <= highest]
    ticks = [(0.0, "0"), *((sign * _height(step), str(step)) for step in steps for sign in (1, -1))]
    y = Axis("pictures", -highest, highest, BOTTOM, TOP, ticks)
    bars = []
    for counts, is_bad, sign in ((good_counts, False, 1), (bad_counts, True, -1)):
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if count:
                tip, zero = y.at(sign * _height(count)), y.at(0)
                told = f"{count} {'bad' if is_bad else 'good'}, {_number(left)} to {_number(right)}"
                width = max(round(x.at(right) - x.at(left) - 1, 1), 1)
                bars.append(Bar(x.at(left), min(tip, zero), width, round(abs(tip - zero), 1), is_bad, told))
    return Histogram(x, y, bars, limits)


def _height(count: float) -> float:
    return math.log10(1 + count)


def _line(
    curve: Curve, labels: tuple[str, str], reach: float, marked: tuple[float, float] | None = None
) -> Line | None:
    if not curve[0].size:
        return None
    x, y = (
        Axis(label, 0, high, start, end, [(tick, _percent(tick, 0)) for tick, _ in _ticks(0, high)])
        for label, high, start, end in ((labels[0], reach, LEFT, RIGHT), (labels[1], 1.0, BOTTOM, TOP))
    )
    corners = [
        f"{x.at(across)},{y.at(up)}" for across, up in zip(*(axis.tolist() for axis in curve), strict=True)
    ]
    # Corners that fall on the same tenth of a pixel add nothing but length.
    points = " ".join(dict.fromkeys(corners))
    return Line(x, y, points, f"{x.at(0)},{y.at(0)} {x.at(reach)},{y.at(reach)}", marked)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """About five round numbers."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    values = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    decimals = max(0, -math.floor(math.log10(step)))
    return [
        (value, f"{value:.{decimals}f}" if decimals < 6 and abs(value) < 1e6 else f"{value:.4g}")
        for value in values.tolist()
    ]


def _galleries(
    tested: Sequence[Tested], model: Inspector, by_name: dict[str, Sample], shown: int
) -> list[Gallery]:
    bad = sorted((one for one in tested if one.bad), key=lambda one: one.score)
    good = sorted((one for one in tested if not one.bad), key=lambda one: -one.score)
    missed = sum(one.verdict is not Verdict.REJECT for one in bad)
    rejected = sum(one.verdict is Verdict.REJECT for one in good)
    chosen = (
        ("Bad parts that score lowest", f"{missed} of {len(bad)} are not rejected.", bad[:shown]),
        ("Good parts that score highest", f"{rejected} of {len(good)} are rejected.", good[:shown]),
        ("Strongest detections", "Bad parts that score highest.", bad[shown:][: -shown - 1 : -1]),
    )
    return [
        Gallery(title, told, [_picture(one, model, by_name[one.name]) for one in those])
        for title, told, those in chosen
        if those
    ]


def _picture(tested: Tested, model: Inspector, sample: Sample) -> Picture:
    image = sample.read()
    mask = sample.read_mask(image.shape[:2])
    scale = EDGE / max(image.shape[:2])
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    result = model.inspect(image, name=sample.name, klass=given_class(model, sample.klass))
    shown = images.resize(image, size)  # first, so that outlines and text are sharp at the size shown
    return Picture(
        tested=tested,
        size=size,
        original=_data_uri(images.to_rgb8(shown, model.format)),
        overlay=_data_uri(model.overlay(shown, result, mask=mask)),
    )


def _data_uri(rgb: NDArray[np.uint8]) -> str:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
