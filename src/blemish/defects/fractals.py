"""Silhouettes of random fractals: what a few contracting affine maps, applied in random order, leave behind.

Singular values, maps, chaos game and brush are those of FractalAD (arXiv 2301.12739).
"""

from functools import cache
from math import log2

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects.augment import SQUARE_MOVES, Mask, turn

Array = NDArray[np.float64]
Points = NDArray[np.float32]

POINTS, CHAINS = 100_000, 500
BURN_IN = 30
"""Steps after which the chains, which start at one point of the attractor, have nothing more in common."""
DEGENERATE = 1e-9
STORED_BITS = 2**26
"""8 MiB for the fractals of one side."""
MOST_STORED = 4096
ROUGHNESS = 0.6
AMONG_CORNERS = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.float32) / 4
AMONG_SIDES = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def silhouette(rng: Generator, side: int, maps: tuple[int, int] = (2, 2), *, fresh: bool = False) -> Mask:
    """A fractal of `maps` (from, to) affine maps, stretched to fill a square.

    The brush is of a few pixels whatever the side, so that larger ones are thinner. Unless it must be
    `fresh`, the fractal comes from a bank of the nearest of the sides 2, 3, 4, 6, 8, 11, 16, …, turned.
    """
    count = int(rng.integers(maps[0], maps[1] + 1))
    if fresh:
        dots = dots_of(chaos_game(rng, *affine_maps(rng, count)), side)
    else:
        stored = round(2 ** (round(2 * log2(side)) / 2))
        number = int(rng.integers(min(STORED_BITS // stored**2, MOST_STORED)))
        dots = np.unpackbits(bank(number, stored, count), count=stored**2).reshape(stored, stored)
        dots = np.ascontiguousarray(turn(dots, SQUARE_MOVES[rng.integers(8)]))
    brush = np.unpackbits(rng.integers(1, 512, 1).astype(">u2").view(np.uint8))[7:].reshape(3, 3)
    drawn = cv2.dilate(dots, brush)
    return cv2.resize(drawn, (side, side), interpolation=cv2.INTER_NEAREST).view(np.bool_)


@cache
def bank(number: int, side: int, maps: int) -> NDArray[np.uint8]:
    """Dots of one fractal, bit-packed: the same for every seed, drawn when first wanted."""
    rng = np.random.default_rng([number, side, maps])
    return np.packbits(dots_of(chaos_game(rng, *affine_maps(rng, maps)), side))


def singular_values(rng: Generator, maps: int) -> Array:
    """(maps, 2), larger first: together as large as attractors of good shape need, none above 1."""
    left = rng.uniform((5 + maps) / 2, (6 + maps) / 2)  # still to give: the sum of first + 2 × second
    values = []
    for later in range(maps - 1, 0, -1):
        owed = left - 3 * later  # what the later maps cannot take
        first = rng.uniform(max(0, owed / 3), min(1, left))
        second = rng.uniform(max(0, (owed - first) / 2), min(first, (left - first) / 2))
        values.append((first, second))
        left -= first + 2 * second
    second = rng.uniform(max(0, (left - 1) / 2), left / 3)
    return np.array([*values, (left - 2 * second, second)])


def affine_maps(rng: Generator, maps: int) -> tuple[Array, Array]:
    """Matrices (maps, 2, 2) and offsets (maps, 2) of x → A x + b."""
    matrices = np.zeros((maps, 2, 2))
    while np.abs(np.linalg.det(matrices)).sum() < DEGENERATE:
        scales = singular_values(rng, maps)
        matrices = _orthogonal(rng, maps) * scales[:, None] @ _orthogonal(rng, maps)
    return matrices, rng.uniform(-1, 1, (maps, 2))


def chaos_game(rng: Generator, matrices: Array, offsets: Array, points: int = POINTS) -> Points:
    """Points (2, steps, chains) of the attractor, met by chains that start at the first map's fixed point."""
    areas = np.abs(np.linalg.det(matrices))
    ends = (areas / areas.sum()).cumsum()[:-1].astype(np.float32)
    luck = rng.random((points // CHAINS + BURN_IN, CHAINS), np.float32)
    choices = (luck >= ends[:, None, None]).sum(0, dtype=np.uint8)
    start = np.linalg.solve(np.eye(2) - matrices[0], offsets[0])
    affine = np.hstack([matrices.reshape(-1, 4), offsets]).astype(np.float32)
    at = np.empty((2, *choices.shape), np.float32)
    x, y = start.astype(np.float32)
    for step, (a, b, c, d, e, f) in enumerate(affine.T[:, choices].transpose(1, 0, 2)):
        x, y = a * x + b * y + e, c * x + d * y + f
        at[:, step] = x, y
    return at[:, BURN_IN:]


def dots_of(points: Points, side: int) -> NDArray[np.uint8]:
    """Which cells of a square grid hold a point, once the points' box is stretched over it."""
    low = points.min((1, 2))
    # An attractor without any width is left a line, and a tiny lift keeps the far sides despite rounding.
    scale = (1 + 1e-6) * (side - 1) / np.maximum(points.max((1, 2)) - low, DEGENERATE)
    x, y = (
        ((axis.ravel() - least) * by).astype(np.int32)
        for axis, least, by in zip(points, low, scale, strict=True)
    )
    dots = np.zeros(side * side, np.uint8)
    dots[y * side + x] = 1
    return dots.reshape(side, side)


def diamond_square(rng: Generator, side: int) -> Mask:
    """Clouds by midpoint displacement, cut at half their range: for comparison only."""
    cloud, swing = rng.standard_normal((2, 2), np.float32), 1.0
    while len(cloud) < side:
        finer = np.zeros((2 * len(cloud) - 1,) * 2, np.float32)
        finer[::2, ::2] = cloud
        swing *= ROUGHNESS
        displaced = swing * rng.standard_normal(finer.shape, np.float32)
        for mean, places in ((AMONG_CORNERS, [(1, 1)]), (AMONG_SIDES, [(0, 1), (1, 0)])):
            displaced_mean = cv2.filter2D(finer, -1, mean) + displaced
            for row, column in places:
                finer[row::2, column::2] = displaced_mean[row::2, column::2]
        cloud = finer
    cloud = cloud[:side, :side]
    return cloud > (cloud.min() + cloud.max()) / 2


def _orthogonal(rng: Generator, maps: int) -> Array:
    """Rotations, each times a random sign for either axis."""
    angle = rng.uniform(-np.pi, np.pi, maps)
    cosine, sine = np.cos(angle), np.sin(angle)
    rotations = np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)
    return rotations * rng.choice([-1.0, 1.0], (maps, 1, 2))
