"""Ten materials as a grey camera sees them: each is made once and then looked at from where one likes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo.camera import Plane, crackle, smooth, smoothstep

__all__ = ["SURFACES", "Gone", "Look"]

MARGIN = 0.12
"""Of the material beyond each edge of the picture, for turns and shifts, in widths of the picture."""
Gone = tuple[float, float] | None
"""The place on the material of an element that is missing."""
Look = Callable[[Plane, Plane, Gone], Plane]
"""The grey of the material, lit, at places that are given in widths of the picture."""


@dataclass(frozen=True)
class Sheet:
    """Noise all over the material, looked up where the camera sees it."""

    size: int
    values: Plane

    def __call__(self, u: Plane, v: Plane) -> Plane:
        x, y = ((place + MARGIN) * self.size - 0.5 for place in (u, v))
        return cv2.remap(self.values, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _side(size: int) -> tuple[int, int]:
    return (round(size * (1 + 2 * MARGIN)),) * 2


def _relief(height: Plane, strength: float, size: int) -> Plane:
    """How much brighter or darker slopes are that face the lamp at the upper left, or turn away."""
    slopes = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    return strength * size / 1024 * slopes


def _octaves(rng: np.random.Generator, size: int, first: float, count: int, fall: float) -> Plane:
    """Cloudy noise from grains of `first` pixels of a picture of 256 on, each octave twice as coarse."""
    side, unit = _side(size), size / 256
    total = np.zeros(side, np.float32)
    for octave in range(count):
        grain = max(1.0, first * 2**octave * unit)
        total += fall**octave * crackle(rng, side, (grain, grain))
    return total


def _cells(rng: np.random.Generator, size: int, across: float) -> tuple[Plane, NDArray[np.intp]]:
    """A mosaic of so many cells across: the way to the nearest joint in pixels, and the cells' numbers."""
    side = _side(size)
    pitch = size / across
    count = round(side[0] / pitch)
    axis = (np.arange(count) + 0.5) * pitch
    x, y = np.meshgrid(axis, axis)
    x[::2] += pitch / 2
    seeds = np.stack([x, y]) + rng.uniform(-0.42, 0.42, (2, count, count)) * pitch
    column, row = np.clip(np.rint(seeds), 0, side[0] - 1).astype(np.intp)
    ground = np.ones(side, np.uint8)
    ground[row, column] = 0
    _, label = cv2.distanceTransformWithLabels(ground, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    flat = label.astype(np.float32)
    joint = cv2.morphologyEx(flat, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    depth = cv2.distanceTransform((~joint).astype(np.uint8), cv2.DIST_L2, 5)
    return depth, label


def _brushed(rng: np.random.Generator, size: int) -> Look:
    """Steel, brushed along x."""
    side, unit = _side(size), size / 256
    lines = np.zeros(side, np.float32)
    for weight, length, width in ((0.5, 160, 1), (0.7, 60, 1), (0.5, 24, 1.4), (0.5, 300, 3)):
        lines += weight * crackle(rng, side, (length * unit, width * unit))
    grooves = Sheet(size, lines)
    sheen, bow = rng.uniform(0.2, 0.8), rng.uniform(2, 4)

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        return 0.56 + 0.055 * grooves(u, v) + 0.10 * np.cos(bow * (v - sheen))

    return look


def _canvas(rng: np.random.Generator, size: int) -> Look:
    """Plain weave of raw linen."""
    threads = 27
    side, unit = _side(size), size / 256
    dye = rng.normal(1, 0.055, (2, 2 * threads)).astype(np.float32)
    drift = [Sheet(size, 0.12 * smooth(rng, side, 8) + 0.07 * smooth(rng, side, 45)) for _ in range(2)]
    fibres = [Sheet(size, crackle(rng, side, stretch)) for stretch in ((unit, 5 * unit), (5 * unit, unit))]

    def strand(across: Plane, along: Plane, dye: Plane, fibre: Plane) -> Plane:
        thread = np.floor(across)
        place, way = across - thread, along - np.floor(along)
        body = np.sqrt(place * (1 - place)) * (1.15 - 0.5 * place) * (0.95 + 1.05 * np.sin(pi * way))
        return body * (1 + 0.10 * fibre) * dye[thread.astype(np.intp) % len(dye)]

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        a, b = u * threads + drift[0](u, v), v * threads + drift[1](u, v)
        above = (np.floor(a) + np.floor(b)).astype(np.int32) & 1 == 0
        warp, weft = strand(a, b, dye[0], fibres[0](u, v)), strand(b, a, dye[1], fibres[1](u, v))
        if gone is not None:
            lost = (np.floor(b) == int(gone[1] * threads)) & (np.abs(u - gone[0]) < 0.12)
            weft = np.where(lost, 0.3 * weft, weft)
        return 0.15 + 0.62 * np.where(above, warp, weft)

    return look


def _cast(rng: np.random.Generator, size: int) -> Look:
    """Sand-cast iron."""
    height = Sheet(size, _octaves(rng, size, 1.5, 5, 1.25))
    pits = Sheet(size, np.maximum(_octaves(rng, size, 3, 2, 1.0) - 2.4, 0))

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        return 0.40 + _relief(height(u, v) - 1.2 * pits(u, v), 0.085, size) - 0.05 * pits(u, v)

    return look


def _felt(rng: np.random.Generator, size: int) -> Look:
    """Pressed felt: fibres that lie one above the other."""
    side, unit = _side(size), size / 256
    cloth = np.full(side, 0.42, np.float32)
    steps = np.linspace(-1, 1, 7)
    count = 1800
    for layer in range(4):
        centre, turn = rng.uniform(0, side[0], (count, 2, 1)), rng.uniform(0, pi, (count, 1))
        half, bend = rng.uniform(5, 18, (count, 1)) * unit, rng.normal(0, 0.5, (count, 1))
        angle = turn + bend * steps
        path = centre + half[:, None] * steps * np.stack([np.cos(angle), np.sin(angle)], 1)
        lines = np.rint(path.transpose(0, 2, 1) * 16).astype(np.int32)
        shades = 0.30 + 0.04 * layer + rng.normal(0, 0.09, 20)
        for shade, part in zip(shades.tolist(), np.array_split(lines, 20), strict=True):
            cv2.polylines(cloth, list(part), False, shade, max(1, round(unit)), cv2.LINE_AA, 4)
    cloth = cv2.GaussianBlur(cloth, (0, 0), 0.55 * unit)
    sheet, clouds = Sheet(size, cloth), Sheet(size, smooth(rng, side, 14))

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        fleece = sheet(u, v)
        return 0.10 + 1.05 * fleece + _relief(fleece, 0.3, size) + 0.012 * clouds(u, v)

    return look


def _granite(rng: np.random.Generator, size: int) -> Look:
    """Polished: quartz, feldspar and mica."""
    _, label = _cells(rng, size, 52)
    kinds = rng.choice([0.20, 0.52, 0.66, 0.78], int(label.max()) + 1, p=[0.2, 0.2, 0.35, 0.25])
    grains = (kinds + rng.normal(0, 0.045, len(kinds)))[label].astype(np.float32)
    coarse, numbers = _cells(rng, size, 17)
    big = rng.uniform(0, 1, int(numbers.max()) + 1) < 0.22
    spots = np.where(big[numbers] & (coarse > size / 170), 0.74, grains).astype(np.float32)
    stone = Sheet(size, cv2.GaussianBlur(spots, (0, 0), 0.8 * size / 256))
    dust, bend = Sheet(size, _octaves(rng, size, 1, 3, 1.0)), Sheet(size, smooth(rng, _side(size), 60))

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        return stone(u + 0.004 * bend(u, v), v + 0.004 * bend(v, u)) * 0.85 + 0.02 * dust(u, v)

    return look


def _knurl(rng: np.random.Generator, size: int) -> Look:
    """A diamond knurl in steel."""
    pitch = 24
    side = _side(size)
    wear = Sheet(size, _octaves(rng, size, 1.2, 3, 1.1))
    drift = [Sheet(size, 0.05 * smooth(rng, side, 7)) for _ in range(2)]

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        a = (u + 0.62 * v) * pitch + drift[0](u, v)
        b = (u - 0.62 * v) * pitch + drift[1](u, v)
        crest = 0.5 + 0.5 * np.minimum(np.cos(2 * pi * a), np.cos(2 * pi * b))
        if gone is not None:
            x, y = gone
            there = (x + 0.62 * y) * pitch, (x - 0.62 * y) * pitch
            worn = np.maximum(np.abs(a - round(there[0])), np.abs(b - round(there[1])))
            crest = np.minimum(crest, 0.35 + 0.65 * smoothstep(0.35, 0.6, worn))
        height = cv2.GaussianBlur(crest, (0, 0), 0.7 * size / 256)
        glint = 0.2 * smoothstep(0.8, 1, height)
        return 0.40 + 0.12 * height + _relief(height, 0.55, size) + 0.02 * wear(u, v) + glint

    return look


def _leather(rng: np.random.Generator, size: int) -> Look:
    """Full-grain leather."""
    side, unit = _side(size), size / 256
    depth, label = _cells(rng, size, 30)
    lift = rng.uniform(0.75, 1.15, int(label.max()) + 1).astype(np.float32)
    dome = 1 - np.exp(-depth / (2.1 * unit))
    height = cv2.GaussianBlur(dome * lift[label], (0, 0), 0.8 * unit)
    hide = Sheet(size, height + 0.05 * _octaves(rng, size, 1.5, 3, 1.2))
    bend = Sheet(size, smooth(rng, side, 34))

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        skin = hide(u + 0.006 * bend(u, v), v + 0.006 * bend(v, u))
        return 0.22 + 0.24 * skin + _relief(skin, 0.45, size)

    return look


def _perforated(rng: np.random.Generator, size: int) -> Look:
    """Sheet metal with staggered round holes."""
    holes, rise = 15, 3**0.5 / 2
    side, unit, many = _side(size), size / 256, 2 * holes
    grain = Sheet(size, crackle(rng, side, (30 * unit, unit)) + crackle(rng, side, (7 * unit, unit)))
    burr = rng.normal(0, 0.022, (2, many, many)).astype(np.float32)

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        b = v * holes / rise
        row = np.rint(b)
        a = u * holes + 0.5 * np.mod(row, 2)
        column = np.rint(a)
        at = row.astype(np.intp) % many, column.astype(np.intp) % many
        dx, dy = a - column + burr[0][at], (b - row) * rise + burr[1][at]
        away = cv2.magnitude(dx, dy)
        plate = 0.60 + 0.030 * grain(u, v)
        hole = smoothstep(0.315, 0.265, away)
        if gone is not None:
            there = round(gone[1] * holes / rise)
            lost = (row == there) & (column == round(gone[0] * holes + 0.5 * (there & 1)))
            hole = np.where(lost, 0, hole)
        rim = np.exp(-np.square((away - 0.315) / 0.035)) * (dx + dy) * 0.55 * (hole < 1)
        deep = 0.10 + 0.12 * smoothstep(-0.1, 0.3, dx + dy)
        return plate * (1 - hole) + deep * hole + (rim if gone is None else np.where(lost, 0, rim))

    return look


def _ribbed(rng: np.random.Generator, size: int) -> Look:
    """Moulded rubber with ribs from top to bottom."""
    ribs = 21
    side = _side(size)
    skin = Sheet(size, _octaves(rng, size, 1.3, 4, 1.1))
    drift = Sheet(size, 0.05 * smooth(rng, side, 3) + 0.012 * smooth(rng, side, 24))
    tall = rng.normal(1, 0.05, round(ribs * (1 + 2 * MARGIN)) + 2).astype(np.float32)

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        a = u * ribs + drift(u, v)
        wave = np.cos(2 * pi * a)
        rib = smoothstep(-0.75, 0.55, wave) * tall[np.rint(a).astype(np.intp) % len(tall)]
        if gone is not None:
            lost = (np.rint(a) == round(gone[0] * ribs)) * smoothstep(0.09, 0.06, np.abs(v - gone[1]))
            rib = rib * (1 - 0.6 * lost)
        return 0.24 + 0.13 * rib + _relief(rib, 0.24, size) + _relief(skin(u, v), 0.035, size)

    return look


def _veneer(rng: np.random.Generator, size: int) -> Look:
    """Quarter-sawn oak, its grain along y."""
    side, unit = _side(size), size / 256
    years = np.cumsum(rng.gamma(9, 1 / 9, 256)).astype(np.float32)
    tone = rng.normal(0, 1, 256).astype(np.float32)
    knots = rng.standard_normal((4, 7), dtype=np.float32)
    bend = Sheet(size, cv2.resize(knots, side, interpolation=cv2.INTER_CUBIC))
    long, short, pore = (
        crackle(rng, side, (across * unit, along * unit)) for across, along in ((1, 30), (1.2, 9), (1.3, 15))
    )
    fibre, pores = Sheet(size, long + 0.7 * short), Sheet(size, np.maximum(pore - 1.25, 0))
    start, spacing = float(rng.uniform(10, 60)), rng.uniform(24, 30)

    def look(u: Plane, v: Plane, gone: Gone) -> Plane:
        ring = start + (u + 0.022 * bend(u, v)) * spacing
        year = np.interp(ring, years, np.arange(256)).astype(np.float32)
        late = year - np.floor(year)
        dark = np.power(late, 3) * (1 - smoothstep(0.93, 1.0, late))
        shade = 0.58 - 0.13 * dark + 0.018 * tone[np.floor(year).astype(np.intp) % 256]
        return shade + 0.026 * fibre(u, v) - 0.16 * pores(u, v) * (1.2 - dark)

    return look


SURFACES: dict[str, Callable[[np.random.Generator, int], Look]] = {
    "brushed": _brushed,
    "canvas": _canvas,
    "cast": _cast,
    "felt": _felt,
    "granite": _granite,
    "knurl": _knurl,
    "leather": _leather,
    "perforated": _perforated,
    "ribbed": _ribbed,
    "veneer": _veneer,
}
