"""Pictures for a person to look at."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import OutputError
from blemish.images.resizing import resize, resize_mask

# Inferno rises evenly in lightness, also for colour-blind eyes; neither outline colour occurs in it.
_HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]
_HEAT_OUTLINE = (0, 229, 255)
_MASK_OUTLINE = (120, 255, 0)
_STRONGEST = 0.75


def overlay(
    image: NDArray[np.uint8],
    heat: NDArray[np.float32],
    *,
    low: float,
    high: float,
    mask: NDArray[np.bool_] | None = None,
    outline_at: float | None = None,
    text: str = "",
) -> NDArray[np.uint8]:
    """`image` (RGB) under its `heat`, on the scale `low`..`high` of the calibration.

    The scale is never that of the one picture, and heat is transparent at `low`: a good part does not glow.
    """
    size = image.shape[:2]
    heat = np.asarray(resize(np.ascontiguousarray(heat, np.float32)[..., None], size)[..., 0], np.float32)
    unit = ((heat - low) / (high - low if high > low else 1.0)).clip(0, 1)
    opacity = _STRONGEST * unit[..., None]
    colours = _HEAT[np.rint(255 * unit).astype(np.uint8)]
    picture = np.rint(image * (1 - opacity) + colours * opacity).astype(np.uint8)
    if mask is not None:
        _outline(picture, mask if mask.shape == size else resize_mask(mask, size), _MASK_OUTLINE)
    if outline_at is not None:
        _outline(picture, heat >= outline_at, _HEAT_OUTLINE)
    if text:
        _label(picture, text)
    return picture


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    _, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    part = path.with_name(f".{uuid4().hex}.part")  # so that nobody ever sees half a picture
    try:
        part.write_bytes(png.tobytes())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): "
            "check that its folder exists, may be written to and has room."
        ) from error


def _outline(picture: NDArray[np.uint8], region: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, max(1, round(min(region.shape) / 400)))


def _label(picture: NDArray[np.uint8], text: str) -> None:
    height, width = picture.shape[:2]
    font, pad = cv2.FONT_HERSHEY_SIMPLEX, 3
    (full, _), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(max(0.4, min(height, width) / 640), max(1, width - 2 * pad) / full)
    (wide, high), below = cv2.getTextSize(text, font, scale, 1)
    picture[: high + below + 2 * pad, : wide + 2 * pad] //= 4
    cv2.putText(picture, text, (pad, high + pad), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
