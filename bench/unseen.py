"""Defects that no maker of ours paints: what learns on synthetic ones must find those of other kinds, too."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects import Faint, Source

Picture = NDArray[np.float32]
Mask = NDArray[np.bool_]
SEED = 77
FADED = 0.35, 1.0


def blob(rng: Generator, size: tuple[int, int], radius: float) -> NDArray[np.float32]:
    """A soft round spot in the middle of a window, highest 1."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    y, x = rows - size[0] / 2, columns - size[1] / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / stretch
    spot: NDArray[np.float32] = np.exp(-0.5 * (along**2 + across**2) / radius**2).astype(np.float32)
    return spot


def stain(rng: Generator, window: Picture) -> tuple[Picture, Mask]:
    """A soft change of brightness and tint."""
    spot = blob(rng, window.shape[:2], window.shape[0] / 6)[..., None]
    tint = rng.choice([-1, 1]) * rng.uniform(25, 60, 3 if np.ptp(window, 2).any() else 1)
    return window + spot * tint.astype(np.float32), spot[..., 0] > 0.4


def blurred(rng: Generator, window: Picture) -> tuple[Picture, Mask]:
    """Out of focus, or rubbed smooth."""
    spot = blob(rng, window.shape[:2], window.shape[0] / 5)
    soft = cv2.GaussianBlur(window, (0, 0), float(rng.uniform(2.5, 5)))
    share = np.clip(3 * spot - 0.6, 0, 1)[..., None]
    return window + share * (soft - window), spot > 0.4


def bent(rng: Generator, window: Picture) -> tuple[Picture, Mask]:
    """Shifted by a few pixels, as by a dent."""
    spot = blob(rng, window.shape[:2], window.shape[0] / 6)
    angle, push = rng.uniform(0, 2 * np.pi), rng.uniform(4, 9)
    rows, columns = np.mgrid[0 : window.shape[0], 0 : window.shape[1]].astype(np.float32)
    across, down = (np.float32(push * turn(angle)) * spot for turn in (np.cos, np.sin))
    moved = cv2.remap(window, columns + across, rows + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return moved, spot > 0.4


def crack(rng: Generator, window: Picture) -> tuple[Picture, Mask]:
    """A dark or bright line that wanders."""
    side = window.shape[0]
    steps = rng.normal(0, 0.35, 40).cumsum() + rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1) * side / 55, 0)
    path = (path - path.mean(0) + side / 2).round().astype(np.int32)
    line = np.zeros(window.shape[:2], np.uint8)
    cv2.polylines(line, [path], False, 255, 1, cv2.LINE_AA)
    share = cv2.GaussianBlur(line, (3, 3), 0)[..., None].astype(np.float32) / 255
    return window + share * rng.choice([-1, 1]) * rng.uniform(60, 110), line > 60


def erased(rng: Generator, window: Picture) -> tuple[Picture, Mask]:
    """What is there is missing: filled up from around."""
    hole = (blob(rng, window.shape[:2], window.shape[0] / 7) > 0.4).astype(np.uint8)
    filled = cv2.inpaint(window.clip(0, 255).astype(np.uint8), hole, 5, cv2.INPAINT_TELEA)
    return np.where(hole[..., None] > 0, filled.astype(np.float32), window), hole > 0


KINDS: tuple[Callable[[Generator, Picture], tuple[Picture, Mask]], ...] = (
    stain,
    blurred,
    bent,
    crack,
    erased,
)


def unseen(source: Source, count: int, *, seed: int) -> Faint:
    """Each on a good picture, on the product where it is known, faded by up to two thirds."""
    pictures, masks, numbers = [], [], np.arange(count) % len(source)
    height, width = source.size
    for draw, number in enumerate(numbers.tolist()):
        rng = np.random.default_rng([SEED, seed, draw])
        clean = source.images[number].astype(np.float32)
        side = int(rng.uniform(0.12, 0.3) * min(height, width)) // 2 * 2
        inner = source.foreground[number][side // 2 : height - side // 2, side // 2 : width - side // 2]
        spots = np.argwhere(inner if inner.any() else np.ones_like(inner))
        top, left = spots[int(rng.integers(len(spots)))].tolist()
        box = slice(top, top + side), slice(left, left + side)
        changed, where = KINDS[draw % len(KINDS)](rng, clean[box])
        painted, mask = clean.copy(), np.zeros((height, width), bool)
        painted[box] += rng.uniform(*FADED) * (changed - clean[box])
        mask[box] = where
        pictures.append(np.rint(painted.clip(0, 255)).astype(np.uint8))
        masks.append(mask)
    return Faint(np.stack(pictures), np.stack(masks), numbers)
