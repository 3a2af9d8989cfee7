"""What is done to a whole picture before a defect is painted: a dihedral move and a colour jitter."""

from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = TypeVar("Array", Pixels, Mask)

JITTER = 0.1
LUMA = np.array([0.299, 0.587, 0.114])

# A move is a number of quarter turns (bits 0 and 1), then perhaps a left-right flip (bit 2).
SQUARE_MOVES = tuple(range(8))
OBLONG_MOVES = (0, 2, 4, 6)  # those that keep the shape of a picture that is not square
ORIGINAL_MOVES = (
    0,
    1,
    2,
    3,
    7,
    5,
    5,
    4,
    4,
)  # the published code's list: two moves double, top-bottom flip absent


def moves(height: int, width: int, *, compat: bool = False) -> tuple[int, ...]:
    allowed = ORIGINAL_MOVES if compat else SQUARE_MOVES
    return allowed if height == width else tuple(move for move in allowed if move in OBLONG_MOVES)


def turn(picture: Array, move: int) -> Array:
    turned = np.rot90(picture, move & 3)
    return turned[:, ::-1] if move & 4 else turned


def turn_point(row: int, column: int, height: int, width: int, move: int) -> tuple[int, int]:
    """Where `turn` brings a pixel of a height × width picture."""
    for _ in range(move & 3):
        row, column, height, width = width - 1 - column, row, width, height
    return row, width - 1 - column if move & 4 else column


def jitter(
    picture: Pixels, rng: Generator, *, grey: bool, mean: float | None = None, amount: float = JITTER
) -> Pixels:
    """Brightness, contrast, saturation and hue, each by up to `amount`, in random order.

    `mean` is the grey level that contrast turns about, where it is not that of the picture itself. A grey
    picture has no saturation and no hue to change.
    """
    changes = rng.uniform(-amount, amount, 4)
    for step in rng.permutation(4):
        change = changes[step]
        if step == 0:
            picture = _rescale(picture, 1 + change, 0.0)
        elif step == 1:
            pivot = float(LUMA @ cv2.mean(picture)[:3]) if mean is None else mean
            picture = _rescale(picture, 1 + change, -change * pivot)
        elif step == 2 and not grey:
            picture = cv2.transform(picture, (1 + change) * np.eye(3) - change * LUMA)
        elif step == 3 and not grey:
            hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(round(256 * change) % 256)
            picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return picture


def _rescale(picture: Pixels, gain: float, offset: float) -> Pixels:
    table = np.rint(np.arange(256) * gain + offset).clip(0, 255).astype(np.uint8)
    return cv2.LUT(picture, table)
