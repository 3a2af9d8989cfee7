"""What inspecting one picture yields."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


class Verdict(StrEnum):
    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Region:
    """A connected stretch of defect, in pixels of the picture as it was given."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    image: str
    score: float
    """Raw and unbounded; higher is worse."""
    verdict: Verdict
    threshold: float
    review_threshold: float
    p_value: float
    """The share of good pictures that would score this high, as far as the calibration images can tell."""
    map: NDArray[np.float32]
    """Raw anomaly scores at the model's working size."""
    regions: tuple[Region, ...]
    nearest: str | None
    """The good picture that comes closest to the worst place, for methods that remember pictures."""
    klass: str | None
    """The product; None: the model does not tell, or knows none like it."""
    class_confidence: float | None
    """From 0 to 1, that the picture shows this product; where none is known, the best one's."""
    notes: tuple[str, ...]
    """What a person should know of this picture's result."""
    ms: float
    model: str

    def record(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "score": self.score,
            "verdict": str(self.verdict),
            "threshold": self.threshold,
            "review_threshold": self.review_threshold,
            "p_value": self.p_value,
            "regions": [asdict(region) for region in self.regions],
            "nearest": self.nearest,
            "class": self.klass,
            "class_confidence": self.class_confidence,
            "notes": list(self.notes),
            "ms": round(self.ms, 3),
            "model": self.model,
        }


def find_regions(heat: NDArray[np.float32], threshold: float, size: tuple[int, int]) -> tuple[Region, ...]:
    """The places where the map reaches the threshold, worst first, in pixels of a picture of `size`."""
    reached = heat >= threshold
    if not reached.any():
        return ()
    (height, width), (rows, columns) = size, heat.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(reached.astype(np.uint8))
    peaks = np.full(count, -np.inf, heat.dtype)
    np.maximum.at(peaks, labels[reached], heat[reached])
    regions = []
    for (x, y, w, h, area), peak in zip(stats[1:].tolist(), peaks[1:].tolist(), strict=True):
        # Outwards, in whole numbers: the box covers the defect and never leaves the picture.
        left, top = x * width // columns, y * height // rows
        right, bottom = -(-(x + w) * width // columns), -(-(y + h) * height // rows)
        covered = max(round(area * height * width / (rows * columns)), 1)
        regions.append(Region(left, top, right - left, bottom - top, covered, peak))
    return tuple(sorted(regions, key=lambda region: -region.peak))
