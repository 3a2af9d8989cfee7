"""A printed tea label on a kraft carton."""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo.camera import Plane, blob, crackle, grid, smooth, smoothstep

__all__ = ["KINDS", "draw"]

KINDS = ("missing_print", "shifted_print", "smear", "torn")

PAPER = np.array([0.93, 0.91, 0.85], np.float32)
KRAFT = np.array([0.55, 0.41, 0.27], np.float32)
GREEN, ORANGE, BLACK = (
    np.array(ink, np.float32) for ink in ([0.06, 0.34, 0.27], [0.80, 0.36, 0.12], [0.10, 0.10, 0.12])
)


class Line(NamedTuple):
    text: str
    left: float
    base: float
    height: float
    pen: float
    ink: str


# Strokes on a grid of 4 × 6, each a row of points "xy".
GLYPHS = {
    " ": (),
    "0": ("103041453616050110",),
    "1": ("112026", "1636"),
    "2": ("01103041420646",),
    "5": ("400002324345361605",),
    "7": ("004016",),
    "A": ("062046", "1434"),
    "B": ("003041423303334445360600",),
    "C": ("4130100105163645",),
    "D": ("00304145360600",),
    "E": ("40000646", "0333"),
    "G": ("41301001051636454323",),
    "H": ("0006", "4046", "0343"),
    "I": ("2026",),
    "L": ("000646",),
    "M": ("0600244046",),
    "N": ("06004640",),
    "O": ("103041453616050110",),
    "R": ("06003041423303", "2346"),
    "S": ("413010010213334445361605",),
    "T": ("0040", "2026"),
    "W": ("0016233640",),
    "X": ("0046", "4006"),
    "Y": ("002340", "2326"),
}
BARS = (2, 1, 1, 3, 1, 2, 3, 1, 1, 1, 2, 1, 3, 2, 1, 1, 1, 3, 2, 1, 1, 2, 1, 2, 3, 1, 1, 2, 1, 3, 1, 1, 2)
"""Widths of bars and gaps in turn."""
ART = 4
"""The artwork is drawn on a grid of 256, so many times finer."""
FRAME = 40, 22, 216, 234
"""Left, top, right and bottom of the paper on that grid."""
PRINTED = (
    Line("BOREALIS", 80, 48, 12, 2.4, "white"),
    Line("GREEN TEA", 92, 128, 8, 1.7, "green"),
    Line("20 BAGS", 60, 147, 5.5, 1.2, "black"),
    Line("NET 50 G", 152, 147, 5.5, 1.2, "black"),
    Line("STORE IN A COOL DRY ROOM", 60, 160, 4.2, 0.9, "black"),
    Line("BEST WITH HOT WATER", 60, 170, 4.2, 0.9, "black"),
    Line("7 01205 21075 2", 91, 218, 5, 1.0, "black"),
)
BARCODE = 65.0, 184.0, 2.3
"""Left, top, and the width of the thinnest bar."""
PRINTED_PLACES = (
    *((128, 34), (110, 48), (128, 92), (112, 100), (110, 132)),
    *((78, 150), (170, 150), (100, 166), (100, 198), (150, 198)),
)
"""Places where a defect of the print shows."""


def _write(layer: NDArray[np.uint8], line: Line, ink: int, by: float) -> None:
    step = line.height / 6
    for place, letter in enumerate(line.text):
        corner = line.left + by + place * 6 * step, line.base - line.height
        for stroke in GLYPHS[letter]:
            points = np.array([int(digit) for digit in stroke]).reshape(-1, 2) * step + corner
            path = np.rint(points * ART).astype(np.int32)
            cv2.polylines(layer, [path], False, ink, round(line.pen * ART), cv2.LINE_AA)


@lru_cache(maxsize=2)
def _artwork(moved: int = -1, by: int = 0) -> NDArray[np.uint8]:
    """How much paper, green, orange and black there is, with one bar or line of text out of place."""
    paper, green, orange, black = layers = np.zeros((4, 256 * ART, 256 * ART), np.uint8)

    def box(layer: NDArray[np.uint8], corners: tuple[float, float, float, float], ink: int = 255) -> None:
        x0, y0, x1, y1 = (round(edge * ART) for edge in corners)
        layer[y0:y1, x0:x1] = ink

    box(paper, FRAME)
    box(green, (45, 27, 211, 229))
    box(green, (46.2, 28.2, 209.8, 227.8), 0)
    box(green, (45, 27, 211, 56))
    box(orange, (45, 58, 211, 60.5))
    centre = (128 * ART, 90 * ART)
    cv2.circle(orange, centre, 20 * ART, 255, -1, cv2.LINE_AA)
    for hill, rise in ((116, 17), (142, 22)):
        slope = np.array([[hill - 26, 112], [hill, 112 - rise], [hill + 26, 112]]) * ART
        cv2.fillPoly(green, [slope], 255, cv2.LINE_AA)
    cv2.ellipse(green, centre, (27 * ART, 27 * ART), 0, 180, 360, 255, round(1.6 * ART), cv2.LINE_AA)
    orange[green > 0] = 0
    for number, line in enumerate(PRINTED, len(BARS)):
        layer, ink = {"white": (green, 0), "green": (green, 255), "black": (black, 255)}[line.ink]
        _write(layer, line, ink, by * 2 * (number == moved))
    left, top, unit = BARCODE
    for number, width in enumerate(BARS):
        start = left + by * 0.6 * unit * (number == moved)
        if number % 2 == 0:
            box(black, (start, top, start + width * unit, top + 24))
        left += width * unit
    return np.ascontiguousarray(np.moveaxis(layers, 0, 2))


@dataclass(frozen=True)
class Setting:
    """All that differs from one good picture to the next."""

    place: Plane
    """Where the label is stuck, as an affine map from the artwork."""
    carton: Plane
    sheet: Plane
    density: Plane
    exposure: float

    def stick(self, artwork: NDArray[np.uint8]) -> Plane:
        return cv2.warpAffine(artwork, self.place, self.carton.shape[1::-1]).astype(np.float32) / 255

    def photograph(self, layers: Plane, core: Plane | float = 0.0) -> Plane:
        """`core` is how much brighter the paper is where its surface is torn off."""
        paper, *inks = cv2.split(layers)
        pixels = len(paper)
        shadow = cv2.GaussianBlur(np.roll(paper, (pixels // 100, pixels // 130), (0, 1)), (0, 0), pixels / 90)
        scene = self.carton * (1 - 0.5 * shadow)[..., None]
        scene += paper[..., None] * (self.sheet + core - scene)
        for ink, colour in zip(inks, (GREEN, ORANGE, BLACK), strict=True):
            scene += (ink * self.density)[..., None] * (colour - scene)
        return scene * self.exposure


def _setting(rng: np.random.Generator, x: Plane) -> Setting:
    pixels = len(x)
    turn, zoom = rng.normal(0, 0.01), pixels / (256 * ART) * rng.uniform(0.99, 1.01)
    linear = zoom * np.array([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]])
    shift = pixels * (0.5 + rng.normal(0, 0.006, 2)) - linear @ np.array([128 * ART, 128 * ART])
    flutes = np.sin(x * (2 * pi * 17) + rng.uniform(0, 2 * pi))
    fibres = crackle(rng, x.shape, (14, 2)) + crackle(rng, x.shape, (3, 3))
    carton = 1 + 0.018 * flutes + 0.028 * fibres + 0.03 * smooth(rng, x.shape, 4)
    sheet = 1 + 0.008 * crackle(rng, x.shape, (5, 2)) + 0.01 * smooth(rng, x.shape, 3)
    density = rng.uniform(0.9, 0.98) + 0.035 * smooth(rng, x.shape, 5) + 0.02 * crackle(rng, x.shape, (2, 2))
    return Setting(
        place=np.column_stack([linear, shift]),
        carton=carton[..., None] * KRAFT,
        sheet=sheet[..., None] * PAPER,
        density=density,
        exposure=rng.uniform(0.95, 1.05),
    )


def draw(rng: np.random.Generator, size: int, kind: str) -> tuple[Plane, Plane | None]:
    x, y = grid(size)
    setting = _setting(rng, x)
    layers = setting.stick(_artwork())
    intact = setting.photograph(layers)
    match kind:
        case "missing_print":
            spot = blob(rng, (x, y), _printed_place(rng), radius=rng.uniform(0.035, 0.08), edge=0.2)
            layers[..., 1:] *= (1 - rng.uniform(0.65, 1) * spot)[..., None]
            return intact, setting.photograph(layers)
        case "shifted_print":
            movable = [*range(0, len(BARS), 2), *range(len(BARS), len(BARS) + len(PRINTED))]
            moved, by = movable[rng.integers(len(movable))], int(rng.choice([-5, -4, -3, 3, 4, 5]))
            return intact, setting.photograph(setting.stick(_artwork(moved, by)))
        case "smear":
            spot = blob(rng, (x, y), _printed_place(rng), radius=rng.uniform(0.04, 0.1), edge=0.3)
            return intact, setting.photograph(_smeared(rng, spot, layers))
        case "torn":
            return intact, setting.photograph(*_torn(rng, x, y, layers))
    return intact, None


def _printed_place(rng: np.random.Generator) -> tuple[float, float]:
    across, down = PRINTED_PLACES[rng.integers(len(PRINTED_PLACES))]
    return across / 256 - 0.5 + rng.uniform(-0.03, 0.03), down / 256 - 0.5 + rng.uniform(-0.02, 0.02)


def _smeared(rng: np.random.Generator, spot: Plane, layers: Plane) -> Plane:
    reach, heading = len(spot) // 32, rng.uniform(0, 2 * pi)
    wipe = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    tip = round(reach + reach * cos(heading)), round(reach + reach * sin(heading))
    cv2.line(wipe, (reach, reach), tip, 1.0, 2, cv2.LINE_AA)
    ink = layers[..., 1:]
    dragged = cv2.filter2D(ink, -1, wipe / wipe.sum())
    change = rng.uniform(0.8, 1.2) * dragged - rng.uniform(0.2, 0.9) * ink
    return np.dstack([layers[..., 0], np.clip(ink + spot[..., None] * change, 0, 1)])


def _torn(rng: np.random.Generator, x: Plane, y: Plane, layers: Plane) -> tuple[Plane, Plane]:
    """Paper missing at an edge; the ink is gone a little further, down to the white core."""
    left, top, right, bottom = (edge / 256 - 0.5 for edge in FRAME)
    across, down = rng.uniform(left, right), rng.uniform(top, bottom)
    centre = ((left, down), (right, down), (across, bottom))[rng.integers(3)]
    away = cv2.magnitude(x - centre[0], y - centre[1]) / rng.uniform(0.015, 0.07) + 0.2 * smooth(
        rng, x.shape, 20
    )
    peeled, gone = smoothstep(1.25, 1.1, away), smoothstep(1.0, 0.95, away)
    kept = np.dstack([1 - gone] + 3 * [1 - peeled])
    return layers * kept, (0.05 * peeled)[..., None]
