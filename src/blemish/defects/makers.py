"""DefectMaker of REB (arXiv 2308.12577): the kinds of defects, how one draw paints them all, and all makers.

Ours, where `compat` brings the original back: eight uniform moves (its list doubles two and misses one), grey
noise on grey products, and a centre that stays on the foreground when a box is shifted inside the picture,
as long as any place allows that.
Ours throughout: lengths grow with the picture, blending is in float32 with rounding instead of float16 with
truncation, shapes of a few pixels are drawn again, and `draem2` takes its textures from the good pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects.augment import Mask, Pixels, jitter
from blemish.defects.fills import Fill, cut, noise, texture
from blemish.defects.fractalmaker import FractalMaker
from blemish.defects.paste import Draw, Weights, blend, place, weigh
from blemish.defects.shapes import Shape, blob, clump, perlin, rectangle, scale_of, scar, strip
from blemish.defects.source import Scene, Source
from blemish.errors import DataError, UsageError

ATTEMPTS = 4
LEAST_PIXELS = 12
FAINT = 2**31
"""Epochs from here on are never trained on."""


@dataclass(frozen=True, slots=True)
class Defect:
    label: str
    shape: Shape
    fill: Fill
    kernel: int = 0
    """Side, at 256 pixels, of the window that softens the edge of every other defect; 0 keeps all hard."""
    opacity: tuple[float, float] = (1.0, 1.0)
    anywhere: bool = False
    """Pay no heed to the foreground."""


class Painter(Protocol):
    """Whatever paints defects: a `Maker` or a `FractalMaker`."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def draw(self, rng: Generator, source: Source, index: int, *, augment: bool, compat: bool) -> Draw: ...


@dataclass(frozen=True, slots=True)
class Maker:
    name: str
    defects: tuple[Defect, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(defect.label for defect in self.defects)

    def draw(self, rng: Generator, source: Source, index: int, *, augment: bool, compat: bool) -> Draw:
        scene = source.scene(rng, index, augment=augment, compat=compat)
        views = np.repeat(scene.pixels(rng)[None], 1 + len(self.defects), axis=0)
        masks = np.zeros(views.shape[:3], bool)
        for defect, view, mask in zip(self.defects, views[1:], masks[1:], strict=True):
            _paint(defect, rng, scene, view, mask)
        return Draw(views, masks)


class Faint(NamedTuple):
    pictures: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    """Of the good pictures that they were."""


CUTS = (
    Defect("bezier/cut", blob, cut, kernel=5),
    Defect("scar/cut", scar, cut, kernel=3),
    Defect("clump/cut", clump, cut, kernel=3, opacity=(0.5, 1.0)),
)
NOISES = (
    Defect("bezier/noise", blob, noise, kernel=5),
    Defect("scar/noise", scar, noise, kernel=3),
    Defect("clump/noise", clump, noise, kernel=3, opacity=(0.5, 1.0)),
)
MAKERS: dict[str, Painter] = {
    maker.name: maker
    for maker in (
        Maker("dm6", CUTS + NOISES),
        Maker("cut3", CUTS),
        Maker("noise3", NOISES),
        Maker("blob2", (CUTS[0], NOISES[0])),
        Maker("scar2", (CUTS[1], NOISES[1])),
        Maker("clump2", (CUTS[2], NOISES[2])),
        Maker(
            "cutpaste3",
            (
                Defect(
                    "rectangle/cut",
                    rectangle,
                    partial(cut, anywhere=True),
                    opacity=(0.99, 1.0),
                    anywhere=True,
                ),
                Defect("strip/cut", strip, partial(cut, anywhere=True), opacity=(0.99, 1.0), anywhere=True),
            ),
        ),
        Maker("draem2", (Defect("perlin/texture", perlin, texture, opacity=(0.2, 1.0), anywhere=True),)),
        FractalMaker(),
    )
}


def make(
    maker: Painter | str,
    source: Source,
    index: int,
    *,
    seed: int,
    epoch: int,
    augment: bool = True,
    compat: bool = False,
) -> Draw:
    """One draw on picture `index % len(source)`: a pure function of (seed, epoch, index).

    Without `augment` the clean view is the picture as it is.
    """
    if isinstance(maker, str):
        if maker not in MAKERS:
            raise UsageError(f"There is no defect maker {maker!r}: choose among {', '.join(MAKERS)}.")
        maker = MAKERS[maker]
    rng = np.random.default_rng([seed, epoch, index])
    return maker.draw(rng, source, index % len(source), augment=augment, compat=compat)


def faint(
    source: Source,
    count: int,
    *,
    seed: int,
    opacity: tuple[float, float] = (0.15, 0.7),
    order: Sequence[int] = (),
) -> Faint:
    """`count` pictures with one DefectMaker defect each, faded to between these shares, painted on the
    source's in this order, or as they come.

    Faded until methods differ: at full strength every one of them tells painted pictures from good ones.
    """
    pictures, masks, numbers = [], [], np.resize(order or np.arange(len(source)), count)
    for draw, number in enumerate(numbers.tolist()):
        rng = np.random.default_rng([seed, count, draw])
        found = make("dm6", source, number, seed=seed, epoch=FAINT + draw, augment=False)
        kind = rng.integers(1, len(found.views))
        clean, view = found.views[0].astype(np.float32), found.views[kind]
        pictures.append(np.rint(clean + rng.uniform(*opacity) * (view - clean)).astype(np.uint8))
        masks.append(found.masks[kind])
    return Faint(np.stack(pictures), np.stack(masks), numbers)


def _paint(defect: Defect, rng: Generator, scene: Scene, view: Pixels, mask: Mask) -> None:
    source = scene.source
    scale = scale_of(*source.size)
    kernel = 2 * round((defect.kernel * scale - 1) / 2) + 1
    unplaced: Weights | None = None

    def lay(weights: Weights, top: int, left: int) -> None:
        height, width = weights.shape
        fill = defect.fill(rng, scene, height, width)
        fill = jitter(fill, rng, grey=bool(source.grey[scene.index]) and not scene.compat)
        box = slice(top, top + height), slice(left, left + width)
        blend(view[box], fill, weights * np.float32(rng.uniform(*defect.opacity)))
        mask[box] = weights > 0

    for _ in range(ATTEMPTS):
        weights = weigh(defect.shape(rng, *source.size), kernel if rng.random() < 0.5 else 1)
        height, width = weights.shape
        if height > source.size[0] or width > source.size[1]:  # a scar lying across a very oblong picture
            continue
        corner = place(rng, scene, height, width, anywhere=defect.anywhere)
        if np.count_nonzero(weights) < max(LEAST_PIXELS * scale**2, 4):
            continue
        if corner is not None:
            lay(weights, *corner)
            return
        unplaced = weights
    if unplaced is None:
        raise DataError(
            f"Picture {scene.index} got no {defect.label} defect in {ATTEMPTS} attempts: give larger ones."
        )
    # A part at the border leaves such a box no place about any of its pixels: then it lies beside one.
    corner = place(rng, replace(scene, compat=True), *unplaced.shape)
    assert corner is not None
    lay(unplaced, *corner)
