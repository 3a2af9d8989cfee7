"""N-channel TIFF, written byte by byte so that no library's habits hide a mistake."""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import ImageError
from blemish.images import read
from tests.images.test_decode import read_or_refuse


def tiff(
    image: np.ndarray,
    *,
    order: str = "<",
    planar: int = 1,
    rows: int = 5,
    deflate: bool = False,
    predictor: int = 1,
    photometric: int = 1,
    alpha: int = 0,
    big: bool = False,
    orientation: int = 1,
) -> bytes:
    """`image` (H, W, C) as a TIFF file, with its directory in front of its pixels."""
    height, width, channels = image.shape
    stored = np.diff(image, axis=1, prepend=image.dtype.type(0)) if predictor == 2 else image
    stored = stored.astype(image.dtype.newbyteorder(order))
    planes = [stored] if planar == 1 else [stored[..., c] for c in range(channels)]
    strips = [plane[y : y + rows].tobytes() for plane in planes for y in range(0, height, rows)]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [image.dtype.itemsize * 8] * channels),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", [0] * len(strips)),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("I", [rows]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [planar]),
        317: ("H", [predictor]),
        338: ("H", [alpha] * max(1, channels - (3 if photometric == 2 else 1))),
        339: ("H", [3 if image.dtype.kind == "f" else 1] * channels),
    }
    if channels == (3 if photometric == 2 else 1):
        del tags[338]
    word, count, start = ("Q", "Q", 16) if big else ("I", "H", 8)
    inline = struct.calcsize("<" + word)
    values_at = start + struct.calcsize("<" + count) + len(tags) * (4 + 2 * inline) + inline
    values_length = sum(
        size for kind, v in tags.values() if (size := struct.calcsize(f"<{len(v)}{kind}")) > inline
    )
    ends = np.cumsum([values_at + values_length, *map(len, strips)])
    tags[273] = "I", [int(at) for at in ends[:-1]]
    entries, values = struct.pack(order + count, len(tags)), b""
    for tag, (kind, numbers) in tags.items():
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        entries += struct.pack(order + "HH" + word, tag, {"H": 3, "I": 4}[kind], len(numbers))
        if len(packed) <= inline:
            entries += packed.ljust(inline, b"\0")
        else:
            entries += struct.pack(order + word, values_at + len(values))
            values += packed
    header = b"II" if order == "<" else b"MM"
    header += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    return header + entries + bytes(inline) + values + b"".join(strips)


def picture(dtype: str, channels: int) -> np.ndarray:
    top = 65536 if dtype == "uint16" else 256
    return np.random.default_rng(3).integers(0, top, (13, 17, channels)).astype(dtype)


def decoded(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return read(path)


def multi_page(path: Path, pages: list[np.ndarray]) -> Path:
    assert cv2.imwritemulti(str(path), pages)
    return path


LAYOUTS = st.fixed_dictionaries(
    {
        "order": st.sampled_from("<>"),
        "planar": st.sampled_from([1, 2]),
        "rows": st.sampled_from([1, 5, 13]),
        "deflate": st.booleans(),
        "predictor": st.sampled_from([1, 2]),
        "big": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    channels=st.sampled_from([1, 2, 3, 4, 5, 7, 31]),
    layout=LAYOUTS,
)
def test_any_number_of_channels_in_stored_order(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, channels: int, layout: dict[str, Any]
) -> None:
    if dtype == "float32" or not layout["deflate"]:  # only then are differences stored
        layout["predictor"] = 1
    image = picture(dtype, channels)
    pixels = decoded(tmp_path_factory.getbasetemp() / "n.tif", tiff(image, **layout))
    assert pixels.dtype == dtype
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("alpha", [1, 2])
def test_colours_are_not_multiplied_by_alpha(tmp_path: Path, dtype: str, alpha: int) -> None:
    image = picture(dtype, 4)
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif", tiff(image, photometric=2, alpha=alpha)), image)


def test_compression_that_only_the_library_knows(tmp_path: Path) -> None:
    image = picture("uint16", 5)
    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 1]
    data = bytearray(cv2.imencode(".tif", image.reshape(13, 17 * 5), lzw)[1])
    directory = struct.unpack_from("<I", data, 4)[0]
    for k in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * k
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 277):
            struct.pack_into("<H", data, at + 8, 17 if tag == 256 else 5)
    np.testing.assert_array_equal(decoded(tmp_path / "lzw.tif", bytes(data)), image)


def test_a_thumbnail_is_not_a_channel(tmp_path: Path) -> None:
    image = np.ascontiguousarray(picture("uint8", 1)[..., 0])
    data = bytearray(multi_page(tmp_path / "a.tif", [image, image[:6, :8]]).read_bytes())
    for thumbnail in (1, 0):  # the second page, then the first
        at = struct.unpack_from("<I", data, 4)[0]
        for page in range(2):
            entries = struct.unpack_from("<H", data, at)[0]
            for entry in range(at + 2, at + 2 + 12 * entries, 12):
                if struct.unpack_from("<H", data, entry)[0] == 254:
                    struct.pack_into("<I", data, entry + 8, int(page == thumbnail))
            at = struct.unpack_from("<I", data, at + 2 + 12 * entries)[0]
        expected = image if thumbnail == 1 else image[:6, :8]
        np.testing.assert_array_equal(decoded(tmp_path / "a.tif", bytes(data))[..., 0], expected)


@pytest.mark.parametrize("kind", ["classic", "big", "planar"])
def test_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = tiff(picture("uint8", 3), big=kind == "big", planar=2 if kind == "planar" else 1)
    for length in range(4, len(data), 7):
        with pytest.raises(ImageError, match=r"n\.tif"):
            decoded(tmp_path / "n.tif", data[:length])


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_raises_nothing_but_image_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(tiff(picture("uint8", 5)))
    for at, value in flips:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.tif"
    path.write_bytes(data)
    pixels = read_or_refuse(path)
    assert pixels is None or pixels.ndim == 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grey_pages_are_channels(tmp_path: Path, dtype: str) -> None:
    image = picture(dtype, 6)
    pages = [np.ascontiguousarray(image[..., c]) for c in range(6)]
    np.testing.assert_array_equal(read(multi_page(tmp_path / "stack.tif", pages)), image)


@pytest.mark.parametrize(
    "shapes", [[(5, 6), (5, 7)], [(5, 6, 3), (5, 6, 3)]], ids=["other size", "colour pages"]
)
def test_other_pages_are_refused(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    path = multi_page(tmp_path / "pages.tif", [np.ones(shape, np.uint8) for shape in shapes])
    with pytest.raises(ImageError, match=r"pages\.tif has 2 pages"):
        read(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_in_planes_of_their_own(tmp_path: Path, dtype: str, channels: int) -> None:
    image = picture(dtype, channels)
    data = tiff(image, photometric=2, planar=2)
    for _ in range(3):  # memory that nothing was written to would differ
        np.testing.assert_array_equal(decoded(tmp_path / "planes.tif", data), image)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize(("channels", "photometric"), [(1, 1), (3, 2)])
def test_nothing_is_turned(tmp_path: Path, orientation: int, channels: int, photometric: int) -> None:
    image = picture("uint8", channels)
    data = tiff(image, photometric=photometric, orientation=orientation)
    np.testing.assert_array_equal(decoded(tmp_path / "turned.tif", data), image)


def test_four_inks_are_four_channels(tmp_path: Path) -> None:
    image = picture("uint8", 4)
    np.testing.assert_array_equal(decoded(tmp_path / "inks.tif", tiff(image, photometric=5)), image)
