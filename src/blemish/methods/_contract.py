"""What a method is given, what it gives back, and what it may choose."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.defects import Source, foregrounds
from blemish.images import Image, PixelFormat, resize, resize_mask, to_rgb8
from blemish.nets import load_backbone
from blemish.nets.backbone import Backbone
from blemish.nets.runtime import Compiled

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(items, what is being done, how many) → the same items."""
Say = Callable[[str], None]
Without = Callable[[Samples, Sequence[Sample]], nn.Module]
"""(what was learned from, images of one product) → the scorer, as if it did not know these."""
BATCH = 4
NATIVE_OF = 5
"""Pictures that the size of the files is taken from."""


def quiet(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    del label, total
    return items


def silent(message: str) -> None:
    del message


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how to fit. A method asks it for pictures and never sees files, bars or devices' names."""

    size: tuple[int, int]
    format: PixelFormat
    seed: int = 0
    preset: str = "fast"
    backbone: str = "lite0"
    weights: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    devices: int = 1
    """How many of them share a training."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint: Path | None = None
    """Where a training leaves what it needs to go on after a kill."""
    resume: bool = False
    bank_mb: float | None = None
    """The most that remembered vectors may take; the method's own choice when None."""
    memory_mb: float = 512.0
    """For what is held while fitting; beyond it a temporary file takes over."""
    cache: Path | None = None
    """A folder where what frozen networks make of pictures is kept for later fits."""
    progress: Progress = quiet
    say: Say = silent
    decoded: dict[str, Image] = field(default_factory=dict)
    """Pictures at working size, by sample name: each is decoded once."""
    masks: Mapping[str, NDArray[np.bool_]] | None = None
    """Where the product is, by sample name; estimated where it matters when None."""

    def load_backbone(self) -> Backbone:
        return load_backbone(self.backbone, weights=self.weights)

    def picture(self, sample: Sample) -> Image:
        held = self.decoded.get(sample.name)
        return held if held is not None else resize(sample.read(), self.size)

    def pixels(self, samples: Iterable[Sample]) -> NDArray[np.float32]:
        return np.stack([self.format.to_unit(self.picture(sample), self.size) for sample in samples])

    def source(self, samples: Samples) -> Source:
        """What defects are painted on. The foreground is estimated once, if nobody has marked it."""
        pictures = np.stack([to_rgb8(self.picture(sample), self.format) for sample in samples])
        native = int(np.median([min(sample.read().shape[:2]) for sample in samples[:NATIVE_OF]]))
        if self.masks is None:
            where = np.ones(pictures.shape[:3], bool)
            for klass in samples.classes:
                own = np.array([sample.klass == klass for sample in samples])
                found = foregrounds(pictures[own])
                where[own] = True if found is None else found
            return Source(pictures, where, native=native)
        masks = [resize_mask(self.masks[sample.name], self.size) for sample in samples]
        return Source(pictures, np.stack(masks), native=native)

    def repainted(self, sample: Sample, painted: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1, C, H, W): the picture with its own depth and channels, and what was painted on its likeness."""
        if (self.format.dtype, self.format.channels) == ("uint8", 3):
            return np.ascontiguousarray(painted.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        change = painted.astype(np.float32) - to_rgb8(self.picture(sample), self.format)
        pixels, colours = self.pixels([sample]), change.transpose(2, 0, 1) / 255
        if self.format.channels in (3, 4):
            pixels[:, :3] += colours
        else:
            pixels += colours.mean(0)
        return pixels

    def batches(self, samples: Samples, size: int = BATCH) -> Iterator[NDArray[np.float32]]:
        """(N, C, H, W) in 0..1; the next batch is decoded while the last one is used."""
        with ThreadPoolExecutor(1) as ahead:
            pending = None
            for start in range(0, len(samples), size):
                following = ahead.submit(self.pixels, samples[start : start + size])
                if pending is not None:
                    yield pending.result()
                pending = following
            if pending is not None:
                yield pending.result()

    @staticmethod
    def batch_count(samples: Samples) -> int:
        return -(-len(samples) // BATCH)

    def compiled(self, module: nn.Module) -> Compiled:
        return Compiled(module, self.format.channels, self.size, self.device)

    def outputs(self, compiled: Compiled, samples: Samples, label: str) -> Iterator[Tensor]:
        """What the compiled module gives for each picture in turn."""
        for batch in self.progress(self.batches(samples), label, self.batch_count(samples)):
            yield from compiled(batch)


def in_turn(samples: Samples) -> list[int]:
    """Their numbers, one of each product after the other: the first so many are then not all of one."""
    ranks: Counter[str] = Counter()
    places = []
    for number, sample in enumerate(samples):
        places.append((ranks[sample.klass], number))
        ranks[sample.klass] += 1
    return [number for _, number in sorted(places)]


class Scorer(Protocol):
    """A torch module: (N, C, H, W) in 0..1 → score (N,), map (N, H, W), and what else the method names.

    `nearest_image` (N,) is the number of a training image, `class_scores` (N, classes) the share by which a
    picture looks like each class of `train.classes`. An attribute `jumps` names what of "score" and "map"
    rounding decides: there the exported graph is allowed to differ more.
    """

    def __call__(self, pictures: Tensor) -> tuple[Tensor, ...]: ...


class Method(Protocol):
    name: ClassVar[str]
    Config: ClassVar[type]
    presets: ClassVar[dict[str, dict[str, Any]]]
    """For each preset the Config fields in which it differs from the defaults."""
    outputs: tuple[str, ...]
    """Names of what the scorer returns, in order; after `fit`, for it may depend on the products."""
    notes: ClassVar[dict[str, str]]
    """What to tell the user where such an output, named `note_…`, is above 0 for a picture."""
    told_classes: int
    """How many products the scorer is told to tell apart in a second argument; 0: it takes pictures alone."""

    config: Any

    def __init__(self, config: Any) -> None: ...
    def fit(self, train: Samples, run: Run) -> nn.Module: ...
    @property
    def trains(self) -> bool:
        """Whether `fit` trains a network, and so keeps a checkpoint."""
        ...

    @property
    def paints(self) -> bool:
        """Whether `fit` paints defects on pictures, and so asks where the product is."""
        ...

    @property
    def without(self) -> Without | None:
        """After `fit`, where it takes no training: then products that are too small to set images aside get
        thresholds of their own beside others that do."""
        ...

    def leave_one_out(self, train: Samples, run: Run, alone: Samples) -> Iterator[nn.Module]:
        """Scorers that each had to do without one image of `alone`, in its order; called after `fit`."""
        ...

    def weights(self, scorer: Any) -> dict[str, Tensor]:
        """What is needed to go on training; what the named backbone brings anyway is left out."""
        ...

    def facts(self) -> dict[str, Any]:
        """What was chosen and measured while fitting, for the manifest."""
        ...
