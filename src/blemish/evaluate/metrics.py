"""Rank metrics, exact, over any number of pixels.

Each of them depends only on this: for every distinct score among the positives, how many positives have it,
how many negatives lie above it and how many tie with it. So the positives (few: pixels of defects) are held,
the negatives are streamed past them in sorted chunks, and nothing is binned, subsampled or rescaled. Scores
are unbounded and are compared in the dtype they come in.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import DataError, MaskError, UsageError

__all__ = [
    "ImageMetrics",
    "Pairs",
    "PixelMetrics",
    "image_metrics",
    "pixel_metrics",
    "pro_curve",
    "rates",
    "roc_curve",
]

Scores = NDArray[np.floating[Any]]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Pairs = Callable[[], Iterable[tuple[Scores, NDArray[np.bool_]]]]
"""Gives every test picture's anomaly map and mask. It is called twice, so that the maps can stay on disk."""

CHUNK = 1 << 22  # negatives sorted at a time: long enough for the vectorised sort, 16 MB of float32


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Each in 0..1, or None where the pictures are all good or all bad."""

    auroc: float | None = None
    ap: float | None = None
    f1max: float | None = None


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Each in 0..1, or None where no pixel is defective or none is good."""

    auroc: float | None = None
    ap: float | None = None
    f1max: float | None = None
    aupro30: float | None = None
    aupro05: float | None = None


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One entry for each distinct score among the positives, highest first."""

    positives: NDArray[np.int64]
    weight: NDArray[np.float64]  # of those positives: 1 / area of the region that each belongs to
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    negatives: int

    def auroc(self) -> float:
        # Integers to the end, a tie counting half: the only rounding is that of the quotient.
        won_twice = int(self.positives @ (2 * (self.negatives - self.above) - self.tied))
        return won_twice / (2 * self.negatives * int(self.positives.sum()))

    def ap(self) -> float:
        found = self.positives.cumsum()
        return float(np.average(found / (found + self.above + self.tied), weights=self.positives))

    def f1max(self) -> float:
        # Lowering the threshold between two positive scores only adds false alarms, so the maximum is at one.
        found = self.positives.cumsum()
        return float((2 * found / (found[-1] + found + self.above + self.tied)).max())

    def aupro(self, limit: float) -> float:
        """Area under per-region overlap against false-positive rate up to `limit`, as a share of the whole.

        A positive adds its weight along a ramp over the negatives that tie with it, then in full.
        """
        end = limit * self.negatives
        reach = np.clip(end - self.above, 0, None)
        ramp = np.minimum(reach, self.tied)
        area = reach - ramp + ramp**2 / (2 * np.maximum(self.tied, 1))
        return float(np.average(area / end, weights=self.weight))

    def curve(self) -> Curve:
        """False-positive rate and weight found, at every corner from (0, 0) to (1, 1); ties are slanted."""
        found = np.concatenate(([0.0], self.weight.cumsum()))
        x = np.stack((self.above, self.above + self.tied), axis=1).ravel() / self.negatives
        y = np.stack((found[:-1], found[1:]), axis=1).ravel() / found[-1]
        return np.concatenate(([0.0], x, [1.0])), np.concatenate(([0.0], y, [1.0]))


def image_metrics(scores: ArrayLike, bad: ArrayLike) -> ImageMetrics:
    ranking = _rank_images(scores, bad)
    if ranking is None:
        return ImageMetrics()
    return ImageMetrics(ranking.auroc(), ranking.ap(), ranking.f1max())


def pixel_metrics(pairs: Pairs) -> PixelMetrics:
    """The negatives of every metric are all pixels outside the defects, of good pictures and of bad ones."""
    ranking = _rank_pixels(pairs)
    if ranking is None:
        return PixelMetrics()
    return PixelMetrics(
        ranking.auroc(),
        ranking.ap(),
        ranking.f1max(),
        aupro30=ranking.aupro(0.3),
        aupro05=ranking.aupro(0.05),
    )


def roc_curve(scores: ArrayLike, bad: ArrayLike) -> Curve:
    """False-positive and true-positive rates at every corner; both empty where one class is absent."""
    ranking = _rank_images(scores, bad)
    return (np.empty(0), np.empty(0)) if ranking is None else ranking.curve()


def pro_curve(pairs: Pairs, limit: float = 0.3, points: int = 200) -> Curve:
    """Evenly spaced false-positive rates and per-region overlaps; both empty where one class is absent."""
    ranking = _rank_pixels(pairs)
    if ranking is None:
        return np.empty(0), np.empty(0)
    fpr = np.linspace(0, limit, points)
    return fpr, np.interp(fpr, *ranking.curve())


def rates(scores: ArrayLike, bad: ArrayLike, threshold: ArrayLike) -> tuple[float | None, float | None]:
    """False-reject and miss rates when scores from `threshold` up, one for all or one for each, are rejected;
    None for an absent class."""
    scores, bad = _labelled(scores, bad)
    # A Python float would be rounded to the scores' dtype first.
    rejected = scores >= np.asarray(threshold, np.float64)
    false_reject = float(rejected[~bad].mean()) if not bad.all() else None
    miss = float((~rejected[bad]).mean()) if bad.any() else None
    return false_reject, miss


def _rank_images(scores: ArrayLike, bad: ArrayLike) -> _Ranking | None:
    scores, bad = _labelled(scores, bad)
    return _rank(scores[bad], np.ones(np.count_nonzero(bad)), [scores[~bad]])


def _rank_pixels(pairs: Pairs) -> _Ranking | None:
    positives, weights, background = [], [], 0
    for scores, mask in _checked(pairs):
        if mask.any():
            # 8-connected, as in the evaluation code of MVTec.
            regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1][mask]
            positives.append(scores[mask])
            weights.append(1 / np.bincount(regions)[regions])
        background += mask.size - int(np.count_nonzero(mask))
    if not positives:
        return None
    streamed = _chunks(scores[~mask] for scores, mask in _checked(pairs))
    ranking = _rank(np.concatenate(positives), np.concatenate(weights), streamed)
    if background != (ranking.negatives if ranking else 0):
        raise UsageError("The maps differ when read again: give a function that starts anew at each call.")
    return ranking


def _rank(positives: Scores, weights: NDArray[np.float64], negatives: Iterable[Scores]) -> _Ranking | None:
    levels, level = np.unique(positives, return_inverse=True)
    above, tied, total = np.zeros(levels.size, np.int64), np.zeros(levels.size, np.int64), 0
    for chunk in negatives:
        chunk.sort()
        first, last = chunk.searchsorted(levels, "left"), chunk.searchsorted(levels, "right")
        above += chunk.size - last
        tied += last - first
        total += chunk.size
    if not levels.size or not total:
        return None
    count, weight = np.bincount(level), np.bincount(level, weights).astype(np.float64, copy=False)
    return _Ranking(count[::-1], weight[::-1], above[::-1], tied[::-1], total)


def _chunks(arrays: Iterable[Scores]) -> Iterator[Scores]:
    held: list[Scores] = []
    size = 0
    for array in arrays:
        held.append(array)
        size += array.size
        if size >= CHUNK:
            chunk, held, size = np.concatenate(held), [], 0
            yield chunk
    if held:
        yield np.concatenate(held)


def _labelled(scores: ArrayLike, bad: ArrayLike) -> tuple[Scores, NDArray[np.bool_]]:
    scores, bad = np.asarray(scores), np.asarray(bad, dtype=bool)
    if scores.shape != bad.shape:
        raise UsageError(f"{scores.size} scores came with {bad.size} labels: give one label for each score.")
    if (broken := np.isnan(scores)).any():
        raise DataError(f"The score of picture {broken.argmax() + 1} is not a number: fit the model again.")
    return scores, bad


def _checked(pairs: Pairs) -> Iterator[tuple[Scores, NDArray[np.bool_]]]:
    for number, (scores, mask) in enumerate(pairs(), start=1):
        name = f"The anomaly map of test picture {number}"
        if scores.shape != mask.shape:
            raise MaskError(f"{name} has shape {scores.shape}, its mask {mask.shape}: resize the mask.")
        if np.isnan(scores).any():
            raise DataError(f"{name} has values that are not numbers: fit the model again.")
        yield scores, mask.astype(bool, copy=False)
