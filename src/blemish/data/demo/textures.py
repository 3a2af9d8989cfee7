"""Ten surfaces with weakly visible defects, in the manner of DAGM 2007."""

from math import cos, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo.camera import VISIBLE, Plane, smooth, smoothstep
from blemish.data.demo.surfaces import SURFACES, Look

__all__ = ["KINDS", "take"]

Mask = NDArray[np.bool_]
KINDS = {
    "brushed": {"blotch": 0.7, "contrast": 1.9, "orientation": 0.3, "scratch": 0.95},
    "canvas": {"blotch": 2.8, "frequency": 1.3, "missing": 0.9, "slip": 1.5},
    "cast": {"blotch": 3.9, "contrast": 0.95, "grain": 1.4, "scratch": 4.9},
    "felt": {"blotch": 2.5, "contrast": 1.9, "grain": 1.6, "scratch": 2.6},
    "granite": {"blotch": 4.2, "contrast": 2.0, "grain": 2.8, "scratch": 4.8},
    "knurl": {"frequency": 0.55, "missing": 1.2, "orientation": 0.55, "scratch": 2.9},
    "leather": {"blotch": 4.8, "frequency": 2.1, "grain": 1.8, "scratch": 5.2},
    "perforated": {"blotch": 2.5, "missing": 0.7, "scratch": 2.4, "slip": 1.3},
    "ribbed": {"frequency": 0.85, "missing": 1.3, "scratch": 2.9, "slip": 0.9},
    "veneer": {"blotch": 1.0, "contrast": 2.2, "orientation": 0.55, "scratch": 0.65},
}
"""What goes wrong with each surface, and how strongly: so that all show about as faintly."""
FAINTEST = 0.05
"""Of a defect's weight: where it has less, the picture is as it was."""


def take(
    rng: np.random.Generator, sensor: np.random.Generator, name: str, kind: str, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Mask]:
    """The picture, the same picture without the defect, and where the two differ."""
    look = SURFACES[name](rng, size)
    x, y = _plane(size, 0.5, 0.5)
    turn, scale = rng.normal(0, 0.02), rng.uniform(0.97, 1.03)
    left, top = rng.uniform(0.46, 0.54, 2).tolist()
    u = left + scale * (x * cos(turn) - y * sin(turn))
    v = top + scale * (x * sin(turn) + y * cos(turn))
    intact = look(u, v, None)
    scene, mask = intact, np.zeros(intact.shape, bool)
    if kind != "good":
        scene, mask = _flaw(rng, look, (u, v), intact, kind=kind, strength=KINDS[name][kind])
    light = sensor.uniform(0.94, 1.06) * (1 + 0.03 * smooth(sensor, (size, size), 2))
    noise = sensor.standard_normal((size, size), dtype=np.float32)
    # shot noise grows with the light; the intact surface's noise serves both pictures
    noise *= np.sqrt(1.2e-4 * np.clip(intact, 0, 1) + 2e-5)
    picture, without = (
        np.clip(np.rint((plane * light + noise) * 255), 0, 255).astype(np.uint8)
        for plane in (np.where(mask, scene, intact), intact)
    )
    return picture, without, mask


def _plane(size: int, x: float, y: float) -> tuple[Plane, Plane]:
    """The way from a point of the picture, in widths of it."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    across, down = np.meshgrid(axis - np.float32(x), axis - np.float32(y))
    return across, down


def _flaw(
    rng: np.random.Generator,
    look: Look,
    place: tuple[Plane, Plane],
    intact: Plane,
    *,
    kind: str,
    strength: float,
) -> tuple[Plane, Mask]:
    """The surface with a defect, and where that is."""
    (u, v), size = place, len(intact)
    cx, cy = rng.uniform(0.15, 0.85, 2).tolist()
    dx, dy = _plane(size, cx, cy)
    at = float(u[int(cy * size), int(cx * size)]), float(v[int(cy * size), int(cx * size)])
    if kind == "missing":
        changed = intact + strength * (look(u, v, at) - intact)
        mask = (np.abs(changed - intact) > VISIBLE).astype(np.uint8)
        return changed, cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(bool)
    if kind == "scratch":
        weight = _line(rng, dx, dy)
        return intact + strength * _either(rng, 1) * rng.uniform(0.06, 0.11) * weight, weight > 2 * FAINTEST
    weight = _patch(rng, dx, dy, edge=0.15 if kind == "blotch" else 0.45)
    amount = strength * weight
    du, dv = u - at[0], v - at[1]
    scene: Plane
    match kind:
        case "blotch":
            uneven = amount * (1 + 0.2 * smooth(rng, dx.shape, 30))
            scene = intact * (1 + _either(rng, 0.09) * uneven)
        case "contrast":
            mean = cv2.GaussianBlur(intact, (0, 0), size / 24)
            scene = mean + (intact - mean) * np.exp(_either(rng, 0.5, -0.6) * amount)
        case "grain":  # worn smooth, or rough
            dull = cv2.GaussianBlur(intact, (0, 0), 1.2 * strength * size / 256)
            scene = intact + _either(rng, 0.85, -0.6) * weight * (dull - intact)
        case "orientation":
            turn = _either(rng, 0.28) * amount
            c, s = np.cos(turn), np.sin(turn)
            scene = look(at[0] + c * du - s * dv, at[1] + s * du + c * dv, None)
        case "frequency":
            zoom = np.exp(_either(rng, 0.2) * amount)
            scene = look(at[0] + zoom * du, at[1] + zoom * dv, None)
        case _:  # slip
            way = rng.uniform(0, 2 * pi)
            scene = look(u + 0.012 * cos(way) * amount, v + 0.012 * sin(way) * amount, None)
    return scene, weight > FAINTEST


def _either(rng: np.random.Generator, one: float, other: float | None = None) -> float:
    """One or the other, which is its opposite if not given."""
    return one if rng.random() < 0.5 else -one if other is None else other


def _patch(rng: np.random.Generator, dx: Plane, dy: Plane, edge: float) -> Plane:
    """An ellipse that is not quite one: 1 inside, 0 outside."""
    turn, radius, squash = rng.uniform(0, pi), rng.uniform(0.06, 0.13), rng.uniform(0.5, 1)
    along, across = dx * cos(turn) + dy * sin(turn), (dy * cos(turn) - dx * sin(turn)) / squash
    distance = cv2.magnitude(along, across) / radius + 0.08 * smooth(rng, dx.shape, 10)
    return smoothstep(1 + edge, 1 - edge, distance)


def _line(rng: np.random.Generator, dx: Plane, dy: Plane) -> Plane:
    """A bent scratch that fades in and out."""
    heading, bend = rng.uniform(0, pi), rng.uniform(-2, 2)
    length, width = rng.uniform(0.14, 0.4), rng.uniform(0.003, 0.006)
    along = dx * cos(heading) + dy * sin(heading)
    across = dy * cos(heading) - dx * sin(heading) - bend * along * along
    pressure = smoothstep(1, 0.6, np.abs(along) * (2 / length)) * (1 + 0.3 * smooth(rng, dx.shape, 30))
    return np.clip(pressure, 0, 1) * np.exp(-np.square(across / width))
