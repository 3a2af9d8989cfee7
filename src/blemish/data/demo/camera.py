"""What the products have in common: uneven shapes, uneven light, and a sensor."""

from functools import lru_cache
from math import cos, pi, sin
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["OVERSAMPLING", "Plane", "blob", "crackle", "develop", "grid", "smooth", "smoothstep"]

Plane = NDArray[np.floating[Any]]

OVERSAMPLING = 2
VISIBLE = 7 / 255
"""A defect is where the defective scene differs from the intact one by more than this."""


@lru_cache(maxsize=1)
def grid(size: int) -> tuple[Plane, Plane]:
    """x and y of the pixels of an oversampled picture, in units of its width from its centre."""
    axis = (np.arange(size * OVERSAMPLING, dtype=np.float32) + 0.5) / (size * OVERSAMPLING) - 0.5
    x, y = np.meshgrid(axis, axis)
    return x, y


def smoothstep(low: float, high: float, values: Plane) -> Plane:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Plane:
    """A smooth random field of deviation about 1, with `cells` hills from edge to edge."""
    knots = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    return cv2.resize(knots, shape[1::-1], interpolation=cv2.INTER_CUBIC)


def crackle(rng: np.random.Generator, shape: tuple[int, ...], stretch: tuple[float, float]) -> Plane:
    """Noise of deviation about 1, drawn out along x and y by so many pixels."""
    height, width = (
        max(2, round(length / along)) for length, along in zip(shape, stretch[::-1], strict=False)
    )
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    return cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_LINEAR)


def blob(
    rng: np.random.Generator,
    place: tuple[Plane, Plane],
    centre: tuple[float, float],
    *,
    radius: float,
    edge: float,
) -> Plane:
    """An uneven spot: 1 inside, 0 outside, with an edge as soft as it is wide."""
    squash, turn = rng.uniform(0.55, 1), rng.uniform(0, pi)
    dx, dy = place[0] - centre[0], place[1] - centre[1]
    along = dx * cos(turn) + dy * sin(turn)
    across = (dy * cos(turn) - dx * sin(turn)) / squash
    cells = min(40, round(1.4 / radius))
    distance = cv2.magnitude(along, across) / radius + 0.22 * smooth(rng, dx.shape, cells)
    return smoothstep(1 + edge, 1 - edge, distance)


def develop(
    rng: np.random.Generator, intact: Plane, scene: Plane | None, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture, the same picture without the defect, and where the two differ."""
    light = 1 + 0.03 * smooth(rng, (size, size), 2)[..., None]
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)
    clean = cv2.resize(intact, (size, size), interpolation=cv2.INTER_AREA)
    # shot noise grows with the light; the intact scene's noise serves both pictures
    grain = noise * np.sqrt(1.2e-4 * np.clip(clean, 0, 1) + 2e-5)
    defective = clean if scene is None else cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA)
    mask = (np.abs(defective - clean).max(axis=2) > VISIBLE).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    defective = np.where(mask[..., None], defective, clean)
    picture, without = (
        np.clip(np.rint((plane * light + grain) * 255), 0, 255).astype(np.uint8)
        for plane in (defective, clean)
    )
    return picture, without, mask
