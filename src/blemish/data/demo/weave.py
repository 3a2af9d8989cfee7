"""A twill of teal warp and sand-coloured weft under a raking light."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo.camera import Plane, blob, crackle, grid, smooth, smoothstep

__all__ = ["KINDS", "draw"]

KINDS = ("colour_thread", "hole", "missing_thread", "stain")

THREADS = 30
SPARE = 8
"""Threads beyond each edge, for shear and drift."""
WARP = np.array([0.10, 0.33, 0.38], np.float32)
WEFT = np.array([0.80, 0.73, 0.60], np.float32)

STRANGE = np.array(
    [[0.62, 0.16, 0.13], [0.75, 0.52, 0.12], [0.55, 0.50, 0.44], [0.05, 0.05, 0.12]], np.float32
)
"""Red, yellow, and two that are hard to see."""


@dataclass(frozen=True)
class Cloth:
    u: Plane
    """Place across the warp, in threads."""
    v: Plane
    """Place across the weft, in threads."""
    warp: Plane
    """The colour of each warp thread."""
    weft: Plane
    fibres: tuple[Plane, Plane]
    light: float
    gone: NDArray[np.bool_] | None = None
    """Where a warp thread is missing."""
    odd: tuple[NDArray[np.bool_], Plane] | None = None
    """Where a warp thread has another colour, and which."""


def _cloth(rng: np.random.Generator, size: int) -> Cloth:
    x, y = grid(size)
    shear, lean, across, along = rng.normal(0, 0.007, 4).tolist()
    drift = 0.07
    u = (x * (1 + across) + y * shear) * THREADS + drift * smooth(rng, x.shape, 3)
    v = (y * (1 + along) + x * lean) * THREADS + drift * smooth(rng, x.shape, 3)
    middle = THREADS / 2 + SPARE
    count = THREADS + 2 * SPARE

    def threads(colour: Plane) -> Plane:
        dye = 1 + 0.035 * rng.standard_normal((count, 1)) + 0.008 * rng.standard_normal((count, 3))
        return (colour * dye).astype(np.float32)

    return Cloth(
        u=u + middle + rng.uniform(0, 4),
        v=v + middle + rng.uniform(0, 4),
        warp=threads(WARP),
        weft=threads(WEFT),
        fibres=(crackle(rng, x.shape, (1.5, 9)), crackle(rng, x.shape, (9, 1.5))),
        light=rng.uniform(0.93, 1.07),
    )


def _strand(across: Plane, along: Plane, crown: Plane, fibres: Plane) -> Plane:
    """The brightness of one thread: round, twisted, dipping under its neighbours."""
    round_ = 4 * across * (1 - across)
    twist = np.sin((across * 1.1 + along * 2.2) * 2 * np.pi)
    body = np.sqrt(round_) * (0.55 + 0.45 * np.sqrt(crown)) + 0.14 * (0.5 - across)
    return body * (1 + 0.07 * twist + 0.07 * fibres)


def _render(cloth: Cloth) -> Plane:
    i, j = np.floor(cloth.u), np.floor(cloth.v)
    across_warp, across_weft = cloth.u - i, cloth.v - j
    step = ((i + j).astype(np.int32) & 3).astype(np.float32)
    warp_on_top = step < 2
    depth: Plane | float = 1.0
    if cloth.gone is not None:
        warp_on_top &= ~cloth.gone
        depth = 1 - 0.38 * cloth.gone.astype(np.float32)
    warp_crown = np.sin(np.pi / 2 * np.clip(step + across_weft, 0, 2))
    weft_crown = np.sin(np.pi / 2 * np.clip(step - 2 + across_warp, 0.35, 2))
    warp = _strand(across_warp, cloth.v, np.maximum(warp_crown, 0), cloth.fibres[0])
    weft = _strand(across_weft, cloth.u, np.maximum(weft_crown, 0), cloth.fibres[1]) * depth
    warp_colour = cloth.warp[i.astype(np.intp) % len(cloth.warp)]
    if cloth.odd is not None:
        where, colour = cloth.odd
        warp_colour = np.where(where[..., None], colour, warp_colour)
    weft_colour = cloth.weft[j.astype(np.intp) % len(cloth.weft)]
    shade = np.where(warp_on_top, warp, weft) * cloth.light
    return np.where(warp_on_top[..., None], warp_colour, weft_colour) * shade[..., None]


def _stretch_of_thread(rng: np.random.Generator, cloth: Cloth, x: Plane, y: Plane) -> NDArray[np.bool_]:
    """Part of one warp thread."""
    cx, cy, half = rng.uniform(-0.38, 0.38), rng.uniform(-0.3, 0.3), rng.uniform(0.1, 0.45)
    row, column = (round((c + 0.5) * (len(x) - 1)) for c in (cy, cx))
    return (np.floor(cloth.u) == np.floor(cloth.u[row, column])) & (np.abs(y - cy) < half)


def draw(rng: np.random.Generator, size: int, kind: str) -> tuple[Plane, Plane | None]:
    cloth = _cloth(rng, size)
    intact = _render(cloth)
    x, y = grid(size)
    centre = (rng.uniform(-0.36, 0.36), rng.uniform(-0.36, 0.36))
    match kind:
        case "missing_thread":
            return intact, _render(replace(cloth, gone=_stretch_of_thread(rng, cloth, x, y)))
        case "colour_thread":
            odd = (_stretch_of_thread(rng, cloth, x, y), STRANGE[rng.integers(len(STRANGE))])
            return intact, _render(replace(cloth, odd=odd))
        case "hole":
            return intact, _hole(rng, cloth, x, y, centre)
        case "stain":
            radius, strength = rng.uniform(0.05, 0.14), rng.uniform(0.45, 0.95)
            spot = blob(rng, (x, y), centre, radius=radius, edge=0.12)
            rim = spot * (1 - blob(rng, (x, y), centre, radius=radius * 0.85, edge=0.3))
            soaked = strength * np.clip(spot * 0.75 + rim * 0.4, 0, 1)
            return intact, intact * (1 - soaked[..., None] * np.array([0.6, 0.75, 1.0], np.float32))
    return intact, None


def _hole(rng: np.random.Generator, cloth: Cloth, x: Plane, y: Plane, centre: tuple[float, float]) -> Plane:
    """Threads pushed aside, and where they leave a gap, the dark table below."""
    radius, slit = rng.uniform(0.014, 0.045), rng.uniform(1, 2.2)
    dx, dy = x - centre[0], y - centre[1]
    distance = cv2.magnitude(dx * slit, dy) / radius + 0.2 * smooth(rng, x.shape, 24)
    pull = np.exp(-0.6 * distance * distance) * THREADS
    scene = _render(replace(cloth, u=cloth.u - dx * pull, v=cloth.v - dy * pull))
    frayed = distance + 0.12 * (cloth.fibres[0] + cloth.fibres[1])
    return scene * (1 - 0.92 * smoothstep(1.05, 0.8, frayed))[..., None]
