"""Drawn glyphs: what EAR's attention learns from where no digits are at hand.

Ten kinds that differ only in how strokes end, bend, meet and cross, which is what the attention shall find.
Ours: the kinds, and that a glyph is turned by any angle, for a scratch lies at any angle.
"""

from collections.abc import Callable
from math import pi

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIDE = 28
FINE = 4
"""Glyphs are drawn this many times larger and then shrunk."""
SHIFT = 8
"""Binary places that cv2 takes below a pixel."""

Stroke = NDArray[np.float64]
"""Points (n, 2) about the origin, within a length of about one."""


def line(rng: Generator) -> list[Stroke]:
    return [polyline((-1, 0), (1, 0))]


def corner(rng: Generator) -> list[Stroke]:
    angle, (one, other) = rng.uniform(0.25, 0.6) * pi, rng.uniform(0.8, 1.2, 2)
    return [polyline((one, 0), (0, 0), (other * np.cos(angle), other * np.sin(angle)))]


def zigzag(rng: Generator) -> list[Stroke]:
    steps = np.array([(-1, -0.6), (-1 / 3, 0.6), (1 / 3, -0.6), (1, 0.6)])
    return [steps + rng.uniform(-0.15, 0.15, steps.shape)]


def arc(rng: Generator) -> list[Stroke]:
    return [curve(rng.uniform(0.6, 1.2) * pi)]


def loop(rng: Generator) -> list[Stroke]:
    return [curve(2 * pi) * (1, rng.uniform(0.6, 1))]


def lollipop(rng: Generator) -> list[Stroke]:
    radius = rng.uniform(0.4, 0.55)
    return [curve(2 * pi) * radius, polyline((radius, 0), (rng.uniform(1.4, 1.8), 0))]


def cross(rng: Generator) -> list[Stroke]:
    angle, reach = rng.uniform(0.3, 0.7) * pi, rng.uniform(0.7, 1, 4)
    across = np.array([np.cos(angle), np.sin(angle)])
    return [polyline((-reach[0], 0), (reach[1], 0)), polyline(-reach[2] * across, reach[3] * across)]


def tee(rng: Generator) -> list[Stroke]:
    angle, foot, reach = rng.uniform(0.35, 0.65) * pi, rng.uniform(-0.3, 0.3), rng.uniform(0.9, 1.3)
    tip = (foot + reach * np.cos(angle), reach * np.sin(angle))
    return [polyline((-1, 0), (1, 0)), polyline((foot, 0), tip)]


def pair(rng: Generator) -> list[Stroke]:
    apart, (one, other) = rng.uniform(0.35, 0.5), rng.uniform(0.6, 1, 2)
    return [polyline((-one, apart), (one, apart)), polyline((-other, -apart), (other, -apart))]


def dots(rng: Generator) -> list[Stroke]:
    count = int(rng.integers(3, 6))
    around = 2 * pi * (np.arange(count) + rng.uniform(-0.15, 0.15, count)) / count
    places = rng.uniform(0.8, 1) * np.stack([np.cos(around), np.sin(around)], axis=1)
    return [polyline(place, place) for place in places]


KINDS: tuple[Callable[[Generator], list[Stroke]], ...] = (
    line,
    corner,
    zigzag,
    arc,
    loop,
    lollipop,
    cross,
    tee,
    pair,
    dots,
)


def polyline(*points: tuple[float, float] | Stroke) -> Stroke:
    return np.array(points, float)


def curve(angle: float) -> Stroke:
    along = np.linspace(0, angle, 33)
    return np.stack([np.cos(along), np.sin(along)], axis=1)


def draw(seed: int, epoch: int, index: int) -> tuple[NDArray[np.uint8], int]:
    """A glyph, bright on black, and the number of its kind."""
    rng = np.random.default_rng([seed, epoch, index])
    kind = int(rng.integers(len(KINDS)))
    strokes = KINDS[kind](rng)
    points = np.concatenate(strokes)
    middle = (points.min(0) + points.max(0)) / 2
    turn, size = rng.uniform(0, 2 * pi), rng.uniform(7, 10)
    turning = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = SIDE / 2 + rng.uniform(-2, 2, 2)
    canvas = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    thickness = round(FINE * rng.uniform(2, 4))
    for stroke in strokes:
        placed = ((stroke - middle) @ turning.T + centre) * FINE - 0.5
        ends = np.rint(placed * 2**SHIFT).astype(np.int32)
        cv2.polylines(canvas, [ends], False, 255, thickness, cv2.LINE_AA, SHIFT)
    canvas = cv2.GaussianBlur(canvas, (0, 0), FINE * rng.uniform(0.2, 0.8))
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA), kind
