"""A turned steel gear on a dark mat, lit from the upper left."""

from dataclasses import dataclass, replace
from math import cos, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo.camera import Plane, blob, crackle, grid, smooth, smoothstep

__all__ = ["KINDS", "draw"]

KINDS = ("chipped_tooth", "contamination", "dent", "scratch")

TEETH = 20
TIP, ROOT = 0.43, 0.372
WEB = (0.165, 0.315)
"""The recessed ring between hub and rim."""
HOLES, HOLE_RADIUS = 5, 0.036
BORE, KEYWAY = 0.078, (0.024, 0.104)
CHAMFER = 0.011
STEEL = np.array([0.70, 0.72, 0.745], np.float32)
OIL = np.array([0.13, 0.09, 0.05], np.float32)
LIGHT = (-0.46, -0.54, 0.70)


@dataclass(frozen=True)
class Part:
    """The gear as it lies before the camera: a height map and what covers it."""

    x: Plane
    y: Plane
    radius: Plane
    angle: Plane
    """Around the gear's own axis, from its keyway."""
    turn: float
    marks: Plane
    """Grooves that the lathe left."""
    mat: Plane
    exposure: float
    bump: Plane | float = 0.0
    """Change of height, in chamfers."""
    shine: Plane | float = 0.0
    oil: Plane | None = None
    chip: tuple[float, float, float, Plane] | None = None
    """Angle, half width and depth of a break, and its roughness."""


def _part(rng: np.random.Generator, size: int) -> Part:
    x, y = grid(size)
    shift_x, shift_y = rng.uniform(-0.025, 0.025), rng.uniform(-0.025, 0.025)
    x, y = x - shift_x, y - shift_y
    turn = rng.uniform(0, 2 * pi)
    radius, angle = cv2.cartToPolar(x, y)
    grooves = rng.standard_normal(1024).astype(np.float32)
    grooves += np.convolve(grooves, np.ones(9, np.float32) / 3, "same")
    return Part(
        x=x,
        y=y,
        radius=radius,
        angle=np.mod(angle - turn, 2 * pi),
        turn=turn,
        marks=grooves[(radius * 1100).astype(np.intp)] * (1 + 0.4 * smooth(rng, x.shape, 4)),
        mat=0.075 + 0.010 * crackle(rng, x.shape, (2, 2)) + 0.008 * smooth(rng, x.shape, 5),
        exposure=rng.uniform(1.05, 1.18),
    )


def _solid(part: Part) -> NDArray[np.bool_]:
    edge = ROOT + (TIP - ROOT) * smoothstep(-0.45, 0.35, np.cos(part.angle * TEETH))
    if part.chip is not None:
        at, half, depth, roughness = part.chip
        away = np.abs(np.mod(part.angle - at + pi, 2 * pi) - pi) + 0.015 * roughness
        edge = edge - depth * smoothstep(half, half * 0.55, away) * (1 + 0.1 * roughness)
    solid = (part.radius < edge) & (part.radius > BORE)
    along, across = cv2.polarToCart(part.radius, part.angle)
    solid &= ~((along > 0) & (along < KEYWAY[1]) & (np.abs(across) < KEYWAY[0]))
    middle = sum(WEB) / 2
    for hole in range(HOLES):
        spoke = (2 * hole + 1) * pi / HOLES
        solid &= cv2.magnitude(along - middle * cos(spoke), across - middle * sin(spoke)) > HOLE_RADIUS
    return solid


def _render(part: Part) -> Plane:
    solid = _solid(part)
    pixels = len(solid)
    inside = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 5) / (CHAMFER * pixels)
    web = smoothstep(WEB[0] - 0.008, WEB[0] + 0.004, part.radius) * smoothstep(
        WEB[1] + 0.008, WEB[1] - 0.004, part.radius
    )
    height = cv2.GaussianBlur(np.minimum(inside, 1) - 1.1 * web, (0, 0), 1.6) + part.bump
    scale = CHAMFER * pixels / 8 * 0.9
    slope_x, slope_y = (cv2.Sobel(height, cv2.CV_32F, *axis) * scale for axis in ((1, 0), (0, 1)))
    facing = (LIGHT[2] - LIGHT[0] * slope_x - LIGHT[1] * slope_y) / np.sqrt(
        1 + slope_x * slope_x + slope_y * slope_y
    )
    # grooves around the axis shine in two fans, where they lie across the light
    fan = np.square(np.square(np.cos(part.angle + (part.turn - pi / 4))))
    steel = 0.20 + 0.50 * facing + (0.26 + 0.03 * part.marks) * fan + 0.022 * part.marks
    steel += 0.5 * np.square(np.square(np.maximum(facing, 0))) * (facing > 0.8) - 0.10 * web + part.shine
    metal = steel[..., None] * STEEL
    if part.oil is not None:
        metal = metal * (1 - part.oil[..., None]) + OIL * part.oil[..., None]
    cover = solid.astype(np.float32)
    shade = cv2.GaussianBlur(cover, (0, 0), pixels / 50)
    shadow = cv2.warpAffine(
        shade, np.array([[1, 0, pixels / 60], [0, 1, pixels / 50]], np.float32), (pixels, pixels)
    )
    mat = (part.mat * (1 - 0.75 * shadow))[..., None] * np.array([0.9, 1.0, 1.15], np.float32)
    return (mat + cover[..., None] * (metal - mat)) * part.exposure


def draw(rng: np.random.Generator, size: int, kind: str) -> tuple[Plane, Plane | None]:
    part = _part(rng, size)
    intact = _render(part)
    where, at = rng.uniform(0.12, 0.36), rng.uniform(0, 2 * pi)
    centre = where * cos(at), where * sin(at)
    match kind:
        case "chipped_tooth":
            tooth = int(rng.integers(TEETH)) * (2 * pi / TEETH) + rng.uniform(-0.06, 0.06)
            chip = tooth, rng.uniform(0.12, 0.28), rng.uniform(0.025, 0.065), smooth(rng, part.x.shape, 48)
            return intact, _render(replace(part, chip=chip))
        case "contamination":
            oil = blob(
                rng, (part.x, part.y), centre, radius=rng.uniform(0.02, 0.07), edge=0.12
            ) * rng.uniform(0.3, 0.95)
            return intact, _render(replace(part, oil=oil))
        case "dent":
            radius, depth = rng.uniform(0.014, 0.038), rng.uniform(0.7, 2.2)
            spot = blob(rng, (part.x, part.y), centre, radius=radius * 1.4, edge=0.75)
            return intact, _render(replace(part, bump=-depth * cv2.GaussianBlur(spot, (0, 0), 2)))
        case "scratch":
            line = _scratch(rng, part.x, part.y, centre)
            return intact, _render(replace(part, bump=-0.25 * line, shine=rng.uniform(0.4, 0.9) * line))
    return intact, None


def _scratch(rng: np.random.Generator, x: Plane, y: Plane, centre: tuple[float, float]) -> Plane:
    """A bent line that fades in and out."""
    heading, bend = rng.uniform(0, 2 * pi), rng.uniform(-2.5, 2.5)
    length, width = rng.uniform(0.12, 0.36), rng.uniform(0.0022, 0.0045)
    dx, dy = x - centre[0], y - centre[1]
    along = dx * cos(heading) + dy * sin(heading)
    across = dy * cos(heading) - dx * sin(heading) - bend * along * along
    pressure = smoothstep(1, 0.7, np.abs(along) * (2 / length)) * (1 + 0.25 * smooth(rng, x.shape, 40))
    return pressure * np.exp(-np.square(across / width))
