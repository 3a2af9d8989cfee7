"""Real files of every kind, whole, cut off and corrupted."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import ImageError, MaskError
from blemish.images import as_image, read, read_mask

BGR_TO_RGB = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}
LOSSLESS = [
    (suffix, dtype, channels)
    for suffix, dtypes, counts in (
        (".png", ("uint8", "uint16"), (1, 3, 4)),
        (".tif", ("uint8", "uint16", "float32"), (1, 3, 4)),
        (".bmp", ("uint8",), (1, 3)),
        (".webp", ("uint8",), (3,)),
    )
    for dtype in dtypes
    for channels in counts
]


def picture(dtype: str = "uint8", channels: int = 3, size: tuple[int, int] = (24, 37)) -> np.ndarray:
    top = 65536 if dtype == "uint16" else 256
    return np.random.default_rng(7).integers(0, top, (*size, channels)).astype(dtype)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    if image.shape[2] > 1:
        image = image[..., BGR_TO_RGB[image.shape[2]]]
    if suffix == ".webp" and not options:
        options = (cv2.IMWRITE_WEBP_QUALITY, 101)  # lossless
    if suffix == ".tif" and image.dtype == np.float32:
        options = (cv2.IMWRITE_TIFF_COMPRESSION, 1)  # OpenCV 4 would write lossy logarithms
    written, data = cv2.imencode(suffix, image, options)
    assert written
    return data.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def read_or_refuse(path: Path) -> np.ndarray | None:
    reason = ""
    try:
        return read(path)
    except ImageError as error:
        reason = str(error)
    assert str(path) in reason
    return None


SOFT = cv2.GaussianBlur(picture(size=(60, 80)), (9, 9), 0)
CONTAINERS = {
    "png": encoded(".png", SOFT),
    "png16": encoded(".png", picture("uint16", 4)),
    "jpeg": encoded(".jpg", SOFT),
    "jpeg progressive": encoded(".jpg", SOFT, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg restart": encoded(".jpg", SOFT, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "bmp": encoded(".bmp", SOFT),
    "tiff": encoded(".tif", SOFT, cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "tiff lzw": encoded(".tif", SOFT),
    "webp": encoded(".webp", SOFT),
    "webp lossy": encoded(".webp", SOFT, cv2.IMWRITE_WEBP_QUALITY, 80),
}


@pytest.mark.parametrize(("suffix", "dtype", "channels"), LOSSLESS)
def test_every_format_keeps_every_pixel(tmp_path: Path, suffix: str, dtype: str, channels: int) -> None:
    image = picture(dtype, channels)
    path = tmp_path / f"part{suffix.upper()}"
    path.write_bytes(encoded(suffix, image))
    pixels = read(path)
    assert pixels.dtype == dtype
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close_and_in_rgb_order(tmp_path: Path, channels: int) -> None:
    image = np.full((32, 32, channels), (200, 100, 20)[:channels], np.uint8)
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg", image))
    np.testing.assert_allclose(read(tmp_path / "a.jpg"), image, atol=3)


@pytest.mark.parametrize("name", ["a part.png", "Prüfteil ü 日本 №3.png", "x" * 200 + ".png"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    path = tmp_path / "Ordner mit Ümlaut" / name
    path.parent.mkdir()
    path.write_bytes(CONTAINERS["png"])
    np.testing.assert_array_equal(read(path), SOFT)


def test_contents_count_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(CONTAINERS["png"])
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), SOFT)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_cut_off_anywhere_is_refused_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    path, data = tmp_path / "a.bin", CONTAINERS[kind]
    path.write_bytes(data + b"written by the camera")
    whole = read(path)
    for length in {*np.linspace(1, len(data) - 1, 40).astype(int), *range(len(data) - 20, len(data))}:
        path.write_bytes(data[:length])
        pixels = read_or_refuse(path)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, whole)
    assert capfd.readouterr() == ("", "")


def test_jpeg_thumbnail_does_not_hide_that_the_picture_is_cut_off(tmp_path: Path) -> None:
    thumbnail = b"Exif\0\0" + encoded(".jpg", picture(size=(8, 8)))
    data = CONTAINERS["jpeg"]
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    (tmp_path / "a.jpg").write_bytes(data)
    assert read(tmp_path / "a.jpg").shape == SOFT.shape
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(ImageError, match="cut off"):
        read(tmp_path / "a.jpg")


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    turned = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    data = CONTAINERS["jpeg"]
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned + data[2:]
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (80, 60)
    (tmp_path / "a.jpg").write_bytes(data)
    assert read(tmp_path / "a.jpg").shape == (60, 80, 3)


def test_png_extras_are_neither_decoded_nor_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = CONTAINERS["png"]
    profile = png_chunk(b"iCCP", b"broken\0\0" + zlib.compress(b"no profile"))
    (tmp_path / "a.png").write_bytes(data[:33] + profile + png_chunk(b"gAMA", bytes(4)) + data[33:])
    np.testing.assert_array_equal(read(tmp_path / "a.png"), SOFT)
    assert capfd.readouterr().err == ""


def test_one_bit_and_palette_png_are_expanded(tmp_path: Path) -> None:
    def png(bits: int, colour: int, row: bytes, *more: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", 8, 1, bits, colour, 0, 0, 0)
        pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + row))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            (png_chunk(b"IHDR", header), *more, pixels, png_chunk(b"IEND", b""))
        )

    (tmp_path / "bits.png").write_bytes(png(1, 0, b"\xa0"))
    assert read(tmp_path / "bits.png")[0, :, 0].tolist() == [255, 0, 255, 0, 0, 0, 0, 0]
    (tmp_path / "palette.png").write_bytes(png(1, 3, b"\x40", png_chunk(b"PLTE", bytes([1, 2, 3, 9, 8, 7]))))
    assert read(tmp_path / "palette.png")[0, :2].tolist() == [[1, 2, 3], [9, 8, 7]]


def test_absurd_size_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    rest = png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + rest)
    with pytest.raises(ImageError, match=r"bomb\.png"):
        read(tmp_path / "bomb.png")
    bitmap = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 99, 0, 54, 40, 200_000, 200_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(bitmap + bytes(99))
    with pytest.raises(ImageError, match="more pixels than can be read"):
        read(tmp_path / "bomb.bmp")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("missing.png", "does not exist"),
        ("empty.png", "is empty"),
        ("notes.png", "is not a PNG"),
        ("folder.png", "it is a folder"),
        ("nul\0.png", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason):
            read(tmp_path / name)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), kind=st.sampled_from(["", *CONTAINERS]), keep=st.integers(2, 60))
def test_random_bytes_raise_nothing_but_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str, keep: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(CONTAINERS.get(kind, b"")[:keep] + data)
    pixels = read_or_refuse(path)
    assert pixels is None or pixels.ndim == 3


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from([kind for kind in CONTAINERS if "jpeg" not in kind]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_raises_nothing_but_image_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, at: float, bit: int
) -> None:
    data = bytearray(CONTAINERS[kind])
    data[int(at * len(data))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.bin"
    path.write_bytes(data)
    pixels = read_or_refuse(path)
    if pixels is not None and kind.startswith("png"):  # has checksums: damage never gets through
        np.testing.assert_array_equal(pixels, SOFT if kind == "png" else picture("uint16", 4))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2", ">f4"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 7)])
def test_npy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    pixels = read(tmp_path / "a.npy")
    assert pixels.dtype.isnative
    assert pixels.dtype.kind == array.dtype.kind
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, array.reshape(5, 6, -1))


def test_npy_doubles_and_booleans_are_converted(tmp_path: Path) -> None:
    np.save(tmp_path / "double.npy", np.full((2, 3), 0.1))
    np.save(tmp_path / "bool.npy", np.eye(3, dtype=bool))
    assert (read(tmp_path / "double.npy") == np.float32(0.1)).all()
    np.testing.assert_array_equal(read(tmp_path / "bool.npy")[..., 0], np.eye(3, dtype=np.uint8) * 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[0.0, np.nan]]), "NaN or infinite"),
        (np.array([[0.0, -np.inf]], np.float32), "NaN or infinite"),
        (np.array([[1e300, 0.0]]), "NaN or infinite"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), np.float16), "float16"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((1, 2, 2, 3), np.uint8), "shape"),
        (np.zeros((0, 2), np.uint8), "shape"),
    ],
)
def test_npy_that_is_no_picture_is_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(ImageError, match=rf"odd\.npy.*{reason}"):
        read(tmp_path / "odd.npy")


def test_npy_never_runs_code(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": print}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError):
        read(tmp_path / "a.npy")


@settings(max_examples=150, deadline=None)
@given(header=st.binary(max_size=80), length=st.integers(0, 65535))
def test_npy_with_a_random_header(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.npy"
    for claimed in (length, len(header)):
        path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", claimed) + header)
        with pytest.raises(ImageError):
            read(path)


def test_as_image_shares_what_is_already_right() -> None:
    image = picture()
    assert np.shares_memory(as_image(image, "array 0"), image)


def test_masks(tmp_path: Path) -> None:
    mask = picture(channels=1)[..., 0] > 200
    grey = mask.astype(np.uint8) * 3
    opaque = np.dstack([grey, np.zeros_like(grey), grey, np.full_like(grey, 255)])
    for name, image in (("grey.png", grey[..., None]), ("rgba.png", opaque), ("wide.tif", grey[..., None])):
        (tmp_path / name).write_bytes(encoded(Path(name).suffix, image))
        np.testing.assert_array_equal(read_mask(tmp_path / name, (24, 37)), mask)
    with pytest.raises(MaskError, match=r"grey\.png is 37×24 pixels, but its picture is 24×37"):
        read_mask(tmp_path / "grey.png", (37, 24))
