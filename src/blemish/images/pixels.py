"""What the numbers in a picture mean: bit depth, channels, black and white."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.errors import PixelFormatError
from blemish.images.resizing import Image, resize

_DEPTHS = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}
_COLOURS = {1: " grey", 3: " RGB", 4: " RGBA"}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The bit depth and channels that a model was fitted on; part of every model file.

    `black`..`white` is mapped linearly to 0..1. Values outside go beyond: never clipped, never refused.
    """

    dtype: str
    channels: int
    black: float
    white: float
    grey_too: bool = False
    """RGB, but of some products the pictures are grey: their one channel counts as all three."""

    @classmethod
    def of(cls, images: Iterable[tuple[str, Image]]) -> Self:
        """The common format of the good images, given as (name, pixels)."""
        first: tuple[str, str, int] | None = None
        low, high = np.inf, -np.inf
        for name, image in images:
            dtype, channels = image.dtype.name, image.shape[2]
            if first is None:
                first = name, dtype, channels
            if first[1:] != (dtype, channels):
                raise PixelFormatError(
                    f"{first[0]} is {_describe(*first[1:])}, {name} is {_describe(dtype, channels)}: "
                    "convert them to one format or separate them into two folders."
                )
            if dtype != "uint8":
                low, high = min(low, float(image.min())), max(high, float(image.max()))
        if first is None:
            raise PixelFormatError(
                "There is no good image to take the bit depth and channels from: add some."
            )
        _, dtype, channels = first
        if dtype == "uint8":
            return cls(dtype, channels, 0.0, 255.0)
        if dtype == "uint16":  # many cameras put 10, 12 or 14 bits into a 16-bit file
            return cls(dtype, channels, 0.0, next(w for w in (1023.0, 4095.0, 16383.0, 65535.0) if w >= high))
        return cls(dtype, channels, low, high if high > low else low + 1.0)

    @classmethod
    def shared(cls, products: Mapping[str, "PixelFormat"]) -> "PixelFormat":
        """One format for several products, by name. Grey may stand beside RGB, but not in one product."""
        (first, kept), *rest = products.items()
        for name, other in rest:
            colours = {kept.channels, other.channels}
            if kept.dtype != other.dtype or (len(colours) > 1 and colours != {1, 3}):
                raise PixelFormatError(
                    f"{first} is {_describe(kept.dtype, kept.channels)}, "
                    f"{name} is {_describe(other.dtype, other.channels)}: fit a model for each."
                )
            kept = replace(
                kept,
                channels=max(colours),
                black=min(kept.black, other.black),
                white=max(kept.white, other.white),
                grey_too=kept.grey_too or len(colours) > 1,
            )
        return kept

    def check(self, image: Image, name: str) -> None:
        channels = self.channels if self.grey_too and image.shape[2] == 1 else image.shape[2]
        if (image.dtype.name, channels) != (self.dtype, self.channels):
            raise PixelFormatError(
                f"{name} is {_describe(image.dtype.name, image.shape[2])}, but this model was fitted on "
                f"{_describe(self.dtype, self.channels)} pictures: convert it the same way as the good "
                "images, or fit a model on such pictures."
            )

    def to_unit(self, image: Image, size: tuple[int, int]) -> NDArray[np.float32]:
        """(C, height, width) in contiguous float32, black at 0 and white at 1."""
        planes = np.moveaxis(resize(image, size), 2, 0)
        unit = np.empty((self.channels if self.grey_too else len(planes), *size), np.float32)
        np.subtract(planes, np.float32(self.black), out=unit)
        unit /= np.float32(self.white - self.black)
        return unit

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(**fields)


def to_rgb8(image: Image, fmt: PixelFormat) -> NDArray[np.uint8]:
    """A picture for a person to look at: the one place where values beyond black and white are clipped."""
    unit = fmt.to_unit(image, image.shape[:2]).transpose(1, 2, 0)
    # Alpha is not shown. Two or more than four channels have no colours of their own: their mean is shown.
    shown = unit[..., :3] if fmt.channels in _COLOURS else unit.mean(axis=2, keepdims=True)
    levels = np.rint(shown.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*image.shape[:2], 3)))


def _describe(dtype: str, channels: int) -> str:
    return _DEPTHS.get(dtype, dtype) + _COLOURS.get(channels, f", {channels} channels")
