"""What a defect is filled with: pixels for a box."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from blemish.defects.augment import Pixels
from blemish.defects.shapes import resize, scale_of
from blemish.defects.source import Scene

Fill = Callable[[Generator, Scene, int, int], Pixels]  # for a picture, a box of that height and width

# Each of the 2 250 combinations is equally likely.
LEVELS = range(50, 200, 10)
SWINGS = range(0, 50, 5)
GRAINS = (1, 2, 4)
STRETCHES = (1 / 4, 1 / 2, 1, 2, 4)


def inside(centre: int, length: int, limit: int) -> int:
    """Where a run of that length about the centre starts, once shifted to lie within 0..limit."""
    return min(max(centre - length // 2, 0), limit - length)


def cut(rng: Generator, scene: Scene, height: int, width: int, *, anywhere: bool = False) -> Pixels:
    """A piece of any good picture, centred on its foreground."""
    other = scene.another(rng)
    row, column = other.pick(rng, anywhere=anywhere)
    top, left = (inside(*run) for run in zip((row, column), (height, width), scene.source.size, strict=True))
    return other.pixels(rng, (slice(top, top + height), slice(left, left + width)))


def noise(rng: Generator, scene: Scene, height: int, width: int) -> Pixels:
    """Grain of a random level, swing, size and stretch: flat without swing, streaks with stretch."""
    level, swing = LEVELS[rng.integers(15)], SWINGS[rng.integers(10)]
    grain, stretch = GRAINS[rng.integers(3)] * scale_of(*scene.source.size), STRETCHES[rng.integers(5)]
    # Both counts come from the width, as in the original; it only changes the grain.
    columns, rows = max(int(width / grain * stretch), 1), max(int(width / (grain * stretch)), 1)
    low, high = max(level - swing, 0), min(level + swing + 1, 255)
    # A colour speck on a grey product would give the fake away.
    channels = 1 if scene.source.grey[scene.index] and not scene.compat else 3
    grains = rng.integers(low, high, (rows, columns, channels), np.uint8)
    fill = resize(grains, height, width).reshape(height, width, channels)
    return np.ascontiguousarray(np.broadcast_to(fill, (height, width, 3)))


def texture(rng: Generator, scene: Scene, height: int, width: int) -> Pixels:
    """A piece of any good picture, enlarged: in the place of DRAEM's outside set of textures."""
    share = rng.uniform(0.25, 0.75)
    return resize(cut(rng, scene, round(height * share), round(width * share)), height, width)
