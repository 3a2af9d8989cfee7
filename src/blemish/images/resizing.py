"""Resizing that neither aliases nor rings, for any number of channels."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

# (H, W, C) with C >= 1, RGB(A) order, C-contiguous.
Image: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


def resize(image: Image, size: tuple[int, int]) -> Image:
    """`image` (H, W, C) at `size` (height, width): area average where it shrinks, linear where it grows."""
    if image.shape[:2] == size:
        return image
    if image.shape[2] > 4:  # cv2 averages areas of four channels at most
        resized = np.empty((*size, image.shape[2]), image.dtype)
        for at in range(0, image.shape[2], 4):
            resized[..., at : at + 4] = resize(image[..., at : at + 4], size)
        return resized
    shrunk = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    resized = image
    for (height, width), how in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if resized.shape[:2] != (height, width):
            resized = cv2.resize(resized, (width, height), interpolation=how)
    return resized.reshape(*size, image.shape[2])


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """`mask` at `size`: pixels covered by half or more; of a defect too small for it, those covered most."""
    cover = resize(mask[..., None].astype(np.float32), size)[..., 0]
    kept = cover >= 0.5
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    y, x = np.nonzero(mask)
    defect = labels[y, x]
    # Where the centre of each defect pixel falls.
    at = (2 * y + 1) * size[0] // (2 * mask.shape[0]), (2 * x + 1) * size[1] // (2 * mask.shape[1])
    survives = np.zeros(count, bool)
    survives[defect[kept[at]]] = True
    most = np.zeros(count, np.float32)
    np.maximum.at(most, defect, cover[at])
    rescued = ~survives[defect] & (cover[at] == most[defect])
    kept[at[0][rescued], at[1][rescued]] = True
    return kept
