"""One picture and what is known of it, and the collections that every later step takes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.errors import DataError, UsageError
from blemish.images import Image

if TYPE_CHECKING:
    from blemish.data.longtail import Tail

__all__ = ["Role", "Sample", "Samples"]


class Role(StrEnum):
    TRAIN = "train"
    CALIBRATION = "calibration"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    name: str
    """Unique and stable: the POSIX path below the data's root, or `array-0003`."""
    role: Role
    bad: bool
    kind: str = "good"
    """The kind of defect."""
    klass: str = ""
    """The product, where the data has several."""
    path: Path | None = None
    pixels: Image | None = field(default=None, repr=False, compare=False)
    mask: Path | None = None
    """A picture, or a folder of some."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.pixels is None):
            raise UsageError(f"{self.name} needs either a path or pixels, and not both.")
        if self.bad and self.role is not Role.TEST:
            raise DataError(
                f"{self.name} is bad and has the role {self.role}, but only good images train and calibrate: "
                "give it the role test, or leave it out."
            )

    def read(self) -> Image:
        if self.path is not None:
            return images.read(self.path)
        assert self.pixels is not None
        return self.pixels

    def read_mask(self, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Where the image is defective. None: it is bad, but nobody has said where."""
        if not self.bad:
            return np.zeros(shape, bool)
        return None if self.mask is None else images.read_mask(self.mask, shape)


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    name: str
    layout: str
    items: tuple[Sample, ...]
    tail: "Tail | None" = None
    """Where a list says it: its long tail."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        return self.with_items(self.items[index]) if isinstance(index, slice) else self.items[index]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({item.klass for item in self.items}))

    def role(self, role: Role) -> "Samples":
        return self.with_items(item for item in self.items if item.role is role)

    def klass(self, name: str) -> "Samples":
        return self.with_items(item for item in self.items if item.klass == name)

    def only(self, name: str) -> "Samples":
        """The class that a user asks for."""
        if self.classes == ("",) and name == self.name:
            return self.with_items(replace(item, klass=name) for item in self)
        if name not in self.classes:
            named = ", ".join(filter(None, self.classes))
            raise UsageError(
                f"{self.name} has no class {name}: "
                f"{f'choose among {named}' if named else f'it is of one product, {self.name}'}."
            )
        return self.klass(name)

    def with_items(self, items: Iterable[Sample]) -> "Samples":
        return replace(self, items=tuple(items))
