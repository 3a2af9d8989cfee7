"""Shapes of defects: masks that fill their own box.

Lengths in pixels are the paper's, given for pictures of 256 × 256, and grow with the side of the picture.
"""

from collections.abc import Callable
from math import log, sqrt

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects.augment import Mask

Shape = Callable[[Generator, int, int], Mask]  # for a picture of that height and width

AREA = (0.02, 0.15)  # of the picture, the box of a large defect
TENSIONS = (0.2, 0.3, 0.4)
STEPS = np.linspace(0, 1, 12)[:-1, None]
# Bernstein polynomials: weights of start, its handle, the end's handle and the end at each step.
CUBIC = np.hstack([(1 - STEPS) ** 3, 3 * STEPS * (1 - STEPS) ** 2, 3 * STEPS**2 * (1 - STEPS), STEPS**3])


def scale_of(height: int, width: int) -> float:
    return sqrt(height * width) / 256


def outline(rng: Generator, points: int, tension: float) -> NDArray[np.float64]:
    """A closed curve through random points taken by angle, each side smooth or straight with equal chance."""
    corners = rng.integers(0, 100, (points, 2)).astype(float)
    while (np.ptp(corners, axis=0) == 0).any():
        corners = rng.integers(0, 100, (points, 2)).astype(float)
    x, y = (corners - corners.mean(0)).T
    corners = corners[np.argsort(np.arctan2(y, x), kind="stable")]

    # Side i goes from corner i to the next; at each corner two handles lie along the line that joins the
    # midpoints of its sides, moved so that the line passes through the corner.
    following = np.roll(corners, -1, axis=0)
    middles, lengths = (corners + following) / 2, np.linalg.norm(following - corners, axis=1)
    earlier = np.roll(lengths, 1)
    share = (earlier / np.maximum(earlier + lengths, 1e-9))[:, None]
    line = (1 - tension) * (middles - np.roll(middles, 1, axis=0))
    entering, leaving = corners - share * line, corners + (1 - share) * line

    controls = np.stack([corners, leaving, np.roll(entering, -1, axis=0), following], axis=1)
    curves = CUBIC @ controls
    kept = np.ones(curves.shape[:2], bool)
    kept[rng.random(points) < 0.5, 1:] = False
    return curves[kept]


def bezier(rng: Generator, height: int, width: int, points: tuple[int, int] = (5, 6)) -> Mask:
    """A blob that fills a box of the given size."""
    low, high = points
    curve = outline(rng, int(rng.integers(low, high + 1)), TENSIONS[rng.integers(3)])
    curve -= curve.min(0)
    curve *= np.array([width - 1, height - 1]) / curve.max(0)
    mask = np.zeros((height, width), np.uint8)
    # The tiny lift keeps the far side, which rounding may leave just below its whole number.
    cv2.fillPoly(mask, [(curve + 1e-9).astype(np.int32)], 1)
    return mask.astype(bool)


def box(rng: Generator, height: int, width: int, aspect: float) -> tuple[int, int]:
    """Height and width of a box that covers 2 to 15 % of the picture."""
    area = rng.uniform(*AREA) * height * width
    ratio = np.exp(rng.uniform(-log(aspect), log(aspect)))
    w, h = sqrt(area * ratio), sqrt(area / ratio)
    if w > width:
        w, h = width, area / width
    if h > height:
        w, h = area / height, height
    return max(round(h), 1), max(round(w), 1)


def blob(rng: Generator, height: int, width: int) -> Mask:
    return bezier(rng, *box(rng, height, width, 3.3))


def rectangle(rng: Generator, height: int, width: int) -> Mask:
    return np.ones(box(rng, height, width, 3.3), bool)


def scar(rng: Generator, height: int, width: int) -> Mask:
    return _tilted(rng, bezier(rng, *_scar_box(rng, height, width)))


def strip(rng: Generator, height: int, width: int) -> Mask:
    return _tilted(rng, np.ones(_scar_box(rng, height, width), bool))


def clump(rng: Generator, height: int, width: int) -> Mask:
    """Grains of coarse noise inside a blob."""
    h, w = box(rng, height, width, 3.0)
    return speckle(rng, h, w, scale_of(height, width)) & bezier(rng, h, w, points=(5, 9))


def speckle(rng: Generator, height: int, width: int, scale: float) -> Mask:
    grain, stretch = rng.uniform(5, 7) * scale, np.exp(rng.uniform(-log(2), log(2)))
    # Both counts come from the width: the original's slip, which only changes the grain.
    columns, rows = max(int(width / grain * stretch), 1), max(int(width / (grain * stretch)), 1)
    noise = rng.integers(77, 178, (rows, columns), np.uint8)
    return resize(noise, height, width) > 138


def perlin(rng: Generator, height: int, width: int) -> Mask:
    """Cloudy patches over the whole picture: gradient noise, cut at half its range."""
    rows, columns = 2 ** rng.integers(0, 6, 2)
    across, down = rng.standard_normal((2, rows + 1, columns + 1))
    length = np.hypot(across, down)
    # Fade and slope are products of one factor a row and one a column: each axis is interpolated by itself.
    across = _fade(_fade(across / length, height).T, width, slope=True).T
    down = _fade(_fade(down / length, height, slope=True).T, width).T
    noise = across + down
    return noise > (noise.min() + noise.max()) / 2


def resize(noise: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic, and averaging along an axis that shrinks, so that no grain is skipped."""
    rows, columns = noise.shape[:2]
    if rows > height or columns > width:
        noise = cv2.resize(noise, (min(columns, width), min(rows, height)), interpolation=cv2.INTER_AREA)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def _scar_box(rng: Generator, height: int, width: int) -> tuple[int, int]:
    scale = scale_of(height, width)
    w, h = round(rng.integers(7, 22) * scale), round(rng.integers(15, 31) * scale)
    return min(max(h, 3), height), min(max(w, 3), width)


def _tilted(rng: Generator, mask: Mask) -> Mask:
    """The mask turned by up to 45° on a canvas that grows with it, then cropped to what is there."""
    height, width = mask.shape
    side = int(np.ceil(np.hypot(height, width)))
    turning = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(rng.integers(-45, 46)), 1)
    turning[:, 2] += (side - width) / 2, (side - height) / 2
    turned = cv2.warpAffine(mask.astype(np.uint8), turning, (side, side), flags=cv2.INTER_NEAREST)
    left, top, w, h = cv2.boundingRect(turned)
    return turned[top : top + h, left : left + w].astype(bool)


def _fade(grid: NDArray[np.float64], size: int, *, slope: bool = False) -> NDArray[np.float64]:
    """The rows of a grid spread over a number of pixels, times the distance to each row for a slope."""
    place = np.arange(size)[:, None] * (len(grid) - 1) / size
    row = place.astype(int)
    along = place - row
    later = along**3 * (along * (along * 6 - 15) + 10)
    before, after = (1 - later) * (along if slope else 1), later * (along - 1 if slope else 1)
    return before * grid[row[:, 0]] + after * grid[row[:, 0] + 1]
