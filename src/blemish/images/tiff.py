"""TIFF pages as they are stored.

OpenCV reads 8-bit TIFF through libtiff's RGBA view, which drops the channels of an N-channel page and
multiplies the colours of an RGBA page by alpha, and it sees only the first page. So the page directory is
read here, and a page that OpenCV would alter is handed to it as a grey page that is C times as wide: same
bytes, same compression, nothing lost.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ImageError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 274, 273, 277, 278, 279, 284, 317
_KIND, _TILES, _TILE_BYTES, _EXTRA, _SAMPLE_FORMAT = 254, 324, 325, 338, 339
_DEFAULTS = {_COMPRESSION: 1, _SAMPLES: 1, _PLANAR: 1, _PREDICTOR: 1, _SAMPLE_FORMAT: 1, _ROWS: 2**32 - 1}
_USED = {*_DEFAULTS, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _STRIPS, _STRIP_BYTES}
_USED |= {_KIND, _TILES, _TILE_BYTES, _EXTRA}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_SHORT = 3
_COLOUR = {2, 3, 6}  # RGB, palette, YCbCr
_UNASSOCIATED_ALPHA = 2
_THUMBNAIL_OR_MASK = 1 | 4


@dataclass(frozen=True, slots=True)
class _Page:
    tags: dict[int, tuple[int, ...]]
    orientation_at: int | None = None
    """Where in the file it stands."""

    def __getitem__(self, tag: int) -> int:
        return self.tags[tag][0] if tag in self.tags else _DEFAULTS.get(tag, 0)

    def is_whole(self, length: int) -> bool:
        return all(
            offset + count <= length
            for offsets, counts in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES))
            for offset, count in zip(self.tags.get(offsets, ()), self.tags.get(counts, ()), strict=False)
        )

    def opencv_reads_it_unaltered(self) -> bool:
        channels = self[_SAMPLES]
        in_colour = self[_PHOTOMETRIC] in _COLOUR and channels <= 4 and self[_EXTRA] != _UNASSOCIATED_ALPHA
        together = self[_PLANAR] == 1  # of separate planes OpenCV reads memory that nothing was written to
        return channels == 1 or (in_colour and together)


def unturned(data: bytes) -> bytes:
    """Without the order to turn or to mirror what is stored, which OpenCV would obey."""
    order = _order(data)
    turned = [at for page in _pages(data, order) if (at := page.orientation_at) is not None]
    plain = bytearray(data)
    for at in turned:
        struct.pack_into(order + "H", plain, at, 1)
    return bytes(plain) if turned else data


def decode_as_stored(data: bytes, name: str) -> NDArray[np.generic] | None:
    """(H, W, C) in stored order, or None for a single page that OpenCV reads unaltered."""
    order = _order(data)
    stored = _pages(data, order)
    pages = [page for page in stored if not page[_KIND] & _THUMBNAIL_OR_MASK]
    if not pages or not all(page.is_whole(len(data)) for page in pages):
        raise ImageError(f"{name} is cut off: copy it again from its source.")
    if len(pages) > 1:
        return _channel_pages(data, pages, name)
    if pages[0] is stored[0] and pages[0].opencv_reads_it_unaltered():
        return None
    return _channels(data, order, pages[0], name)


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _pages(data: bytes, order: str) -> list[_Page]:
    big = struct.unpack_from(order + "H", data, 2) == (43,)
    word, count, entry = (order + "Q", order + "Q", 20) if big else (order + "I", order + "H", 12)
    at = struct.unpack_from(word, data, 8 if big else 4)[0]
    pages, visited = [], set()
    while at and at not in visited:
        visited.add(at)
        entries = struct.unpack_from(count, data, at)[0]
        at += struct.calcsize(count)
        tags, orientation_at = {}, None
        for entry_at in range(at, at + entries * entry, entry):
            tag, kind, length = struct.unpack_from(order + "HH" + word[1], data, entry_at)
            if tag == _ORIENTATION and kind == _SHORT:
                orientation_at = entry_at + 4 + struct.calcsize(word)
            if tag in _USED and kind in _INTEGERS:
                values = f"{order}{length}{_INTEGERS[kind]}"
                values_at = entry_at + 4 + struct.calcsize(word)
                if struct.calcsize(values) > struct.calcsize(word):
                    values_at = struct.unpack_from(word, data, values_at)[0]
                tags[tag] = struct.unpack_from(values, data, values_at)
        pages.append(_Page(tags, orientation_at))
        at = struct.unpack_from(word, data, at + entries * entry)[0]
    return pages


def _channel_pages(data: bytes, pages: list[_Page], name: str) -> NDArray[np.generic]:
    if len({(page[_HEIGHT], page[_WIDTH], page[_SAMPLES]) for page in pages}) > 1 or pages[0][_SAMPLES] > 1:
        raise ImageError(
            f"{name} has {len(pages)} pages that are not single channels of one picture: "
            "save each page as a file of its own."
        )
    decoded, planes = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    planes = [plane for plane in planes if plane.shape == (pages[0][_HEIGHT], pages[0][_WIDTH])]
    if not decoded or len(planes) != len(pages):
        raise ImageError(f"{name} has pages that cannot be decoded: save it again without compression.")
    return np.stack(planes, axis=2)


def _channels(data: bytes, order: str, page: _Page, name: str) -> NDArray[np.generic]:
    height, width, channels = page[_HEIGHT], page[_WIDTH], page[_SAMPLES]
    strips = list(zip(page.tags.get(_STRIPS, ()), page.tags.get(_STRIP_BYTES, ()), strict=True))
    if not strips or page[_PREDICTOR] > 2 or len(set(page.tags[_BITS])) > 1:
        raise ImageError(
            f"{name} is a TIFF of a kind that is not read: save it in strips without compression."
        )
    if page[_PLANAR] == 2:
        each = len(strips) // channels
        planes = [_grey(data, order, page, width, strips[k * each : (k + 1) * each]) for k in range(channels)]
        stored = np.stack(planes, axis=2)
    else:
        stored = _grey(data, order, page, width * channels, strips).reshape(height, width, channels)
    # Predictor 2 stores differences along the row, channel by channel.
    return np.cumsum(stored, axis=1, dtype=stored.dtype) if page[_PREDICTOR] == 2 else stored


def _grey(
    data: bytes, order: str, page: _Page, width: int, strips: Sequence[tuple[int, int]]
) -> NDArray[np.generic]:
    offsets, counts = zip(*strips, strict=True)
    tags = {
        _WIDTH: (width,),
        _HEIGHT: (page[_HEIGHT],),
        _BITS: (page[_BITS],),
        _COMPRESSION: (page[_COMPRESSION],),
        _PHOTOMETRIC: (1,),
        _STRIPS: offsets,
        _SAMPLES: (1,),
        _ROWS: (min(page[_ROWS], page[_HEIGHT]),),
        _STRIP_BYTES: counts,
        _SAMPLE_FORMAT: (page[_SAMPLE_FORMAT],),
    }
    at = len(data) + len(data) % 2
    long_values_at = at + 2 + 12 * len(tags) + 4
    entries, long_values = struct.pack(order + "H", len(tags)), b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            where = struct.pack(order + "I", long_values_at + len(long_values))
            long_values, packed = long_values + packed, where
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    header = data[:2] + struct.pack(order + "HI", 42, at)
    file = b"".join((header, data[8:].ljust(at - 8, b"\0"), entries, bytes(4), long_values))
    grey = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if grey is None:
        raise ValueError("OpenCV cannot decode this page")
    return grey
