"""Files to pixels. Whatever is wrong with a file, it is refused with a sentence, never half decoded."""

import re
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ImageError, MaskError
from blemish.images.resizing import Image
from blemish.images.tiff import decode_as_stored, unturned

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy"})

# What matters in OpenCV's log becomes an error here; the rest is noise on the user's terminal.
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(0)
else:  # OpenCV 5
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        why = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise ImageError(f"{path} {why}: check the path.") from None
    except (OSError, ValueError) as error:
        reason = "it is a folder" if path.is_dir() else getattr(error, "strerror", None) or error
        raise ImageError(
            f"{path} cannot be read ({reason}): give the path of a readable picture file."
        ) from error


def read(path: Path) -> Image:
    """The pixels as stored, with their bit depth and channels.

    EXIF rotation is not applied: what the camera saw is what the model must see. Palette and 1-bit pictures
    come expanded to 8 bit, a PNG of grey and alpha as RGBA, a grey WebP as RGB.
    """
    data = read_bytes(path)
    if not data:
        raise ImageError(f"{path} is empty (0 bytes): copy it again from its source.")
    decode = next((decoder for magic, decoder in _DECODERS.items() if data.startswith(magic)), None)
    if decode is None:
        raise ImageError(
            f"{path} is not a PNG, JPEG, BMP, TIFF, WebP or .npy picture: convert it to one of these."
        )
    try:
        return decode(data, str(path))
    except ImageError:
        raise
    except Exception as error:  # OpenCV and NumPy meet damage with a dozen kinds of exception
        if isinstance(error, MemoryError) or "CV_IO_MAX_IMAGE" in str(error):
            advice = "claims more pixels than can be read: crop it or cut it into tiles"
        else:
            advice = "is damaged or cut off: copy it again from its source"
        raise ImageError(f"{path} {advice}.") from error


def mask_files(path: Path) -> list[Path]:
    """A mask is a picture, or a folder of some that together say what is defective."""
    if not path.is_dir():
        return [path]
    shown = (each for each in path.iterdir() if not each.name.startswith("."))
    files = sorted(each for each in shown if each.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise MaskError(f"The mask {path} is a folder without pictures: add them, or name a picture.")
    return files


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Non-zero is defect. An alpha channel is not looked at: it is opaque everywhere in most masks."""
    marked = None
    for file in mask_files(path):
        image = read(file)
        if image.shape[:2] != (shape := shape or image.shape[:2]):
            raise MaskError(
                f"The mask {file} is {image.shape[1]}×{image.shape[0]} pixels, but its picture is "
                f"{shape[1]}×{shape[0]}: give a mask of the same size."
            )
        colours = image[..., :-1] if image.shape[2] in (2, 4) else image
        here = colours.any(axis=2)
        marked = here if marked is None else marked | here
    return np.asarray(marked)


def as_image(array: NDArray[np.generic], name: str) -> Image:
    """An array (H, W) or (H, W, C) as an Image; ImageError when it cannot be one."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(
            f"{name} has the shape {array.shape}: give it as (height, width) or (height, width, channels)."
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.float64:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused below
            array = array.astype(np.float32)
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{name} holds {array.dtype} values: convert it to uint8, uint16 or float32.")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise ImageError(f"{name} holds NaN or infinite values: replace them before use.")
    return np.ascontiguousarray(array.reshape(*array.shape[:2], -1))


def _opencv(data: bytes, name: str) -> Image:
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("OpenCV cannot decode it")
    image = as_image(array, name)
    to_rgb = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}.get(image.shape[2])
    return image if to_rgb is None else cv2.cvtColor(image, to_rgb)


def _png(data: bytes, name: str) -> Image:
    # Only what makes up the pixels is handed on, and only intact: libpng prints its view of the rest.
    pixels, at = [data[:8]], 8
    while (kind := data[at + 4 : at + 8]) != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise ValueError("no end")
        if kind[:1].isupper() or kind == b"tRNS":
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ValueError("wrong checksum")
            pixels.append(data[at:end])
        at = end
    return _opencv(b"".join([*pixels, b"\0\0\0\0IEND\xaeB`\x82"]), name)


_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def _jpeg(data: bytes, name: str) -> Image:
    # OpenCV 4 makes a half-grey picture of a JPEG that is cut off, so the end marker behind the last scan is
    # looked for. That of an embedded thumbnail is inside a segment; trailing bytes are fine. Damage between
    # the markers stays unseen: JPEG has no checksum.
    at = 2
    while marker := _JPEG_MARKER.search(data, at):
        if marker[1] == b"\xd9":
            return _opencv(data, name)
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise ValueError("no end of image")


def _tiff(data: bytes, name: str) -> Image:
    data = unturned(data)
    stored = decode_as_stored(data, name)
    return _opencv(data, name) if stored is None else as_image(stored, name)


def _npy(data: bytes, name: str) -> Image:
    return as_image(np.lib.format.read_array(BytesIO(data), allow_pickle=False), name)


_DECODERS: dict[bytes, Callable[[bytes, str], Image]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"BM": _opencv,
    b"RIFF": _opencv,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"\x93NUMPY": _npy,
}
