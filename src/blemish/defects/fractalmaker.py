"""The anomalies of FractalAD (arXiv 2301.12739): a piece of a picture, recoloured, turned, cut out by the
silhouette of a random fractal and pasted elsewhere on the picture.

Ours, where `compat` brings the original back: silhouettes come from a bank, a grey product gets no colours,
and what a thin fractal leaves outside its mask is not pasted. Ours throughout: the picture is brought to
working size once, and only the silhouette is drawn as fine as the picture was, then reduced to opacities; it
is never drawn finer than those of MVTec AD, whose brush would be a veil on larger pictures; the object is the
source's foreground rather than what differs from the corner's colour, and a patch on it fits the picture; and
a patch that cannot be seen is drawn again.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator

from blemish.defects.augment import Mask, Pixels, jitter
from blemish.defects.fractals import diamond_square, silhouette
from blemish.defects.paste import Draw, blend, place_within
from blemish.defects.shapes import perlin
from blemish.defects.source import Scene, Source
from blemish.errors import DataError, UsageError
from blemish.images import resize

Corner = tuple[int, int]

FREE_SIDE = (0.1, 0.5)
"""Of the picture's shorter side."""
OBJECT_SIDE = (0.05, 1.5)
"""Of the object's thickness."""
MARGIN = 0.1
"""Of the picture, left alone in free mode."""
LARGEST = 0.9
"""Of the picture's shorter side, a patch on an object."""
FINEST = 1024
"""Shorter side, in pixels, of the picture for which a silhouette is drawn."""
LEAST = 2
"""Side of a patch in pixels."""
ANGLES = (15.0, 75.0)
NOISE = 10.0
MILD, HARSH, WHOLE = 0.2, 1.0, 0.05
"""Jitter of a patch, and of both views."""
ATTEMPTS = 4
STEP = np.ones((3, 3), np.uint8)
RECOLOURS: tuple[Literal["mild", "harsh", "channels"], ...] = ("mild", "harsh", "channels")


@dataclass(frozen=True, slots=True, kw_only=True)
class FractalMaker:
    name: str = "fractal"
    silhouette: Literal["fractal", "square", "ellipse", "perlin", "diamond_square"] = "fractal"
    recolour: Literal["mixed", "mild", "harsh", "channels", "none"] = "mixed"
    wrap: bool = True
    """Levels of a changed channel above 255 begin anew at 0: false colours. Else they are clipped."""
    noise: bool = True
    """On every other patch."""
    dilation: int = 3
    """Pixels by which the mask reaches beyond the patch."""
    objects: bool = True
    """Patches lie on the object and are as large as it asks for; where all is foreground, anywhere."""
    brush: Literal["native", "working"] = "native"
    """The scale at which the silhouette is drawn, with a brush of a few pixels."""
    maps: tuple[int, int] = (2, 2)
    """From how many to how many affine maps make a fractal."""
    compat: bool = False
    """What the published code does otherwise."""

    def __post_init__(self) -> None:
        if not 2 <= self.maps[0] <= self.maps[1]:
            raise UsageError(f"maps is {self.maps}: give two numbers from 2 on, the smaller first.")
        if self.dilation < 0:
            raise UsageError(f"dilation is {self.dilation}: give at least 0.")

    @property
    def labels(self) -> tuple[str, ...]:
        return ("fractal",)

    def draw(self, rng: Generator, source: Source, index: int, *, augment: bool, compat: bool) -> Draw:
        """The only augmentation is a slight change of colours, the same on both views."""
        if (1 - 2 * MARGIN) * min(source.size) < LEAST:
            raise DataError(
                f"Pictures of {source.size[0]}×{source.size[1]} pixels are smaller than the smallest patch, "
                f"{LEAST} pixels, and the margins about it: give larger pictures."
            )
        scene = source.scene(rng, index, augment=False, compat=compat or self.compat)
        views, masks = np.empty((2, *source.size, 3), np.uint8), np.zeros((2, *source.size), bool)
        for attempt in range(1, ATTEMPTS + 1):  # on a flat picture a patch may be invisible
            views[:] = scene.pixels(rng)
            self._paint(rng, scene, views[1], masks[1], forced=attempt == ATTEMPTS)
            if augment:
                both = views.reshape(-1, *views.shape[2:])
                mean, grey = float(source.means[index]), bool(source.grey[index]) and not scene.compat
                views[:] = jitter(both, rng, grey=grey, mean=mean, amount=WHOLE).reshape(views.shape)
            if masks.any() and (views[0] != views[1]).any():
                break
        return Draw(views, masks)

    def _paint(self, rng: Generator, scene: Scene, view: Pixels, mask: Mask, *, forced: bool) -> None:
        source, compat = scene.source, scene.compat
        length, origin, target = self._places(rng, scene)
        shorter = min(source.size)
        finer = min(source.native if self.brush == "native" else shorter, FINEST) / shorter
        side, fine = pixels(length), pixels(length * finer)
        here, there = box(origin, side), box(target, side)
        angle = rng.uniform(*ANGLES)
        if forced:  # half the range away from what is there, whatever that is
            shape, patch = np.ones((fine, fine), bool), view[there] ^ np.uint8(128)
        else:
            shape = _turned_square(fine, angle) & self._silhouette(rng, fine, fresh=compat)
            patch = self._patch(rng, view[here], angle, grey=bool(source.grey[scene.index]) and not compat)

        mask[:] = False
        nearest = cv2.INTER_NEAREST_EXACT
        mask[there] = cv2.resize(shape.view(np.uint8), (side, side), interpolation=nearest)
        mask[:] = cv2.dilate(mask.view(np.uint8), STEP, iterations=self.dilation)
        opacity = resize(shape[..., None].view(np.uint8) * np.uint8(255), (side, side))[..., 0]
        if not compat:
            opacity *= mask[there]
        blend(view[there], patch, np.divide(opacity, 255, dtype=np.float32))
        if self.noise and rng.random() < 0.5:
            grain = rng.normal(0, NOISE, (np.count_nonzero(mask), 1))
            view[mask] = np.rint(view[mask] + grain).clip(0, 255)

    def _places(self, rng: Generator, scene: Scene) -> tuple[float, Corner, Corner]:
        """Side of the patch, and the corners of where it is taken and where it is put."""
        source, size = scene.source, np.array(scene.source.size)
        if self.objects and not source.foreground[scene.index].all():
            length = min(rng.uniform(*OBJECT_SIDE) * source.thickness[scene.index], LARGEST * size.min())
            origin, target = (place_within(rng, scene, pixels(length), pixels(length)) for _ in range(2))
            if origin and target:
                return length, origin, target
        length = rng.uniform(*FREE_SIDE) * size.min()
        corners = rng.uniform(MARGIN * size, (1 - MARGIN) * size - pixels(length), (2, 2)).astype(int)
        return length, *((row, column) for row, column in corners.tolist())

    def _silhouette(self, rng: Generator, side: int, *, fresh: bool) -> Mask:
        if self.silhouette == "fractal":
            return silhouette(rng, side, self.maps, fresh=fresh)
        if self.silhouette == "perlin":
            return perlin(rng, side, side)
        if self.silhouette == "diamond_square":
            return diamond_square(rng, side)
        if self.silhouette == "ellipse":
            return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(bool)
        return np.ones((side, side), bool)

    def _patch(self, rng: Generator, cut: Pixels, angle: float, *, grey: bool) -> Pixels:
        patch = self._recoloured(rng, cut, grey=grey)
        patch = np.ascontiguousarray(patch[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])])
        middle, side = (len(patch) - 1) / 2, len(patch)
        turning = cv2.getRotationMatrix2D((middle, middle), angle, 1)
        # The opacities decide where the patch ends, so it goes on beyond its corners.
        edge = cv2.BORDER_REPLICATE
        return cv2.warpAffine(patch, turning, (side, side), flags=cv2.INTER_CUBIC, borderMode=edge)

    def _recoloured(self, rng: Generator, patch: Pixels, *, grey: bool) -> Pixels:
        recolour = RECOLOURS[rng.integers(3)] if self.recolour == "mixed" else self.recolour
        if recolour == "mild":
            return jitter(patch, rng, grey=grey, amount=MILD)
        if recolour == "harsh":
            return jitter(patch, rng, grey=True, amount=HARSH)
        if recolour == "channels":
            return change_channels(rng, patch, grey=grey, wrap=self.wrap)
        return patch


def change_channels(rng: Generator, patch: Pixels, *, grey: bool, wrap: bool) -> Pixels:
    """Twice a channel, perhaps the same, times 0 to 2. A grey picture has but one."""
    changed = patch.copy()
    for _ in range(2):
        channel = slice(None) if grey else int(rng.integers(3))
        levels = (np.arange(256) * rng.uniform(0, 2)).astype(int)
        table = (levels % 256 if wrap else levels.clip(max=255)).astype(np.uint8)
        changed[..., channel] = table[changed[..., channel]]
    return changed


def pixels(length: float) -> int:
    return max(round(length), LEAST)


def box(corner: Corner, side: int) -> tuple[slice, slice]:
    top, left = corner
    return slice(top, top + side), slice(left, left + side)


def _turned_square(side: int, angle: float) -> Mask:
    """Where a square and itself turned about its centre overlap."""
    middle = (side - 1) / 2
    corners = cv2.boxPoints(((middle, middle), (side - 1, side - 1), -angle))
    mask = np.zeros((side, side), np.uint8)
    return cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 1).view(np.bool_)
