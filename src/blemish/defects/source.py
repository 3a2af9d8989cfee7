"""The good pictures that defects are painted on and cut from."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects.augment import LUMA, Mask, Pixels, jitter, moves, turn, turn_point
from blemish.errors import DataError, MaskError


class Source:
    """Good pictures at working size, (N, H, W, 3), and where their foreground is: everywhere unless told.

    `native` is the shorter side that they had before they were brought to working size.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        foreground: NDArray[np.bool_] | None = None,
        *,
        native: int | None = None,
    ) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
            raise DataError(
                f"Defects are painted on 8-bit pictures of three channels, not on an array of {images.dtype} "
                f"and shape {images.shape}: give (N, H, W, 3) of uint8 with N of at least 1."
            )
        if foreground is None:
            foreground = np.broadcast_to(np.True_, images.shape[:3])
        if foreground.shape != images.shape[:3] or foreground.dtype != np.bool_:
            raise MaskError(
                f"The foreground masks ({foreground.dtype}, {foreground.shape}) do not fit the pictures "
                f"{images.shape}: give one boolean mask of the same height and width for each picture."
            )
        self.images = images
        self.foreground = foreground
        self.native = native or min(images.shape[1:3])
        self.grey = np.array([bool((image == image[..., :1]).all()) for image in images])
        self.means = np.array([LUMA @ image.reshape(-1, 3).mean(0) for image in images])
        # Foreground pixels up to the end of each row: with it a uniform choice costs microseconds, and a
        # picture 1 kB, where a list of pixels would cost 256 kB.
        self.row_ends = foreground.sum(2, dtype=np.int32).cumsum(1, dtype=np.int32)
        if empty := np.flatnonzero(self.row_ends[:, -1] == 0).tolist():
            raise MaskError(
                f"The foreground mask of picture {empty[0]} is empty: mark at least one pixel, or mark "
                "the whole picture where everything may carry a defect."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.images.shape[1:3]
        return height, width

    @cached_property
    def thickness(self) -> NDArray[np.float64]:
        """For each picture the shorter side of the smallest box, at any angle, about its largest object."""

        def of(mask: Mask) -> float:
            contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            return min(cv2.minAreaRect(max(contours, key=cv2.contourArea))[1])

        return np.array([of(mask) for mask in self.foreground])

    def scene(self, rng: Generator, index: int, *, augment: bool, compat: bool) -> "Scene":
        allowed = moves(*self.size, compat=compat) if augment else (0,)
        return Scene(self, index, allowed[rng.integers(len(allowed))], augment, compat)


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture of the source under one move."""

    source: Source
    index: int
    move: int
    augment: bool
    compat: bool

    def another(self, rng: Generator) -> "Scene":
        """Any picture of the same source, with a move of its own."""
        index = int(rng.integers(len(self.source)))
        return self.source.scene(rng, index, augment=self.augment, compat=self.compat)

    def pixels(self, rng: Generator, window: tuple[slice, slice] = (slice(None), slice(None))) -> Pixels:
        """The picture, or a window of it with the colours that the whole jittered picture would have."""
        cut = np.ascontiguousarray(turn(self.source.images[self.index], self.move)[window])
        if not self.augment:
            return cut
        return jitter(
            cut, rng, grey=bool(self.source.grey[self.index]), mean=float(self.source.means[self.index])
        )

    def is_foreground(self, row: int, column: int) -> bool:
        return bool(turn(self.source.foreground[self.index], self.move)[row, column])

    def pick(self, rng: Generator, *, anywhere: bool = False) -> tuple[int, int]:
        """A foreground pixel, each equally likely."""
        height, width = self.source.size
        if anywhere:
            return int(rng.integers(height)), int(rng.integers(width))
        ends = self.source.row_ends[self.index]
        number = rng.integers(ends[-1])
        row = int(np.searchsorted(ends, number, side="right"))
        columns = np.flatnonzero(self.source.foreground[self.index, row])
        column = int(columns[number - ends[row]])  # counted from the end of the row: a negative index
        return turn_point(row, column, height, width, self.move)

    def pick_within(self, rng: Generator, rows: slice, columns: slice) -> tuple[int, int] | None:
        places = np.argwhere(turn(self.source.foreground[self.index], self.move)[rows, columns])
        if not len(places):
            return None
        row, column = places[rng.integers(len(places))].tolist()
        return rows.start + row, columns.start + column
