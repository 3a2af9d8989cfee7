"""Where a defect goes and how it is laid over the picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects.augment import Mask, Pixels
from blemish.defects.fills import inside
from blemish.defects.source import Scene

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Draw:
    """The clean view, then one view a label; a mask is true where a defect was pasted."""

    views: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def place(
    rng: Generator, scene: Scene, height: int, width: int, *, anywhere: bool = False
) -> tuple[int, int] | None:
    """Top left corner of a box about a random foreground pixel.

    A box that would leave the picture is shifted back inside, as in the original. If that takes its centre
    off the foreground, the pixel is chosen again among those around which the box fits; None if none is left.
    """
    limit_y, limit_x = scene.source.size
    row, column = scene.pick(rng, anywhere=anywhere)
    top, left = inside(row, height, limit_y), inside(column, width, limit_x)
    if anywhere or scene.compat or scene.is_foreground(top + height // 2, left + width // 2):
        return top, left
    return place_within(rng, scene, height, width)


def place_within(rng: Generator, scene: Scene, height: int, width: int) -> tuple[int, int] | None:
    """Top left corner of a box about one of the foreground pixels around which it fits; None without any."""
    limit_y, limit_x = scene.source.size
    rows = slice(height // 2, limit_y - height + height // 2 + 1)
    columns = slice(width // 2, limit_x - width + width // 2 + 1)
    centre = scene.pick_within(rng, rows, columns)
    return centre and (centre[0] - height // 2, centre[1] - width // 2)


def weigh(shape: Mask, kernel: int) -> Weights:
    """How much of the defect shows: the shape, with its edge worn and blurred unless the kernel is 1."""
    weights = shape.astype(np.float32)
    if kernel == 1:
        return weights
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel, kernel))
    edge = cv2.BORDER_CONSTANT  # nothing lies beyond the box
    weights = cv2.erode(weights, window, borderType=edge, borderValue=0)
    return cv2.GaussianBlur(weights, (kernel, kernel), kernel, borderType=edge)


def blend(picture: Pixels, fill: Pixels, weights: Weights) -> None:
    """Lays the fill over the picture in place."""
    under = picture.astype(np.float32)
    np.copyto(picture, np.rint(under + weights[..., None] * (fill - under)), casting="unsafe")
