import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.errors import PixelFormatError
from blemish.images import PixelFormat, to_rgb8


def plain(dtype: str, channels: int, value: float = 0) -> np.ndarray:
    return np.full((4, 5, channels), value, dtype)


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_sixteen_bit_white_is_the_camera_s(largest: int, white: int) -> None:
    images = [("a.png", plain("uint16", 1)), ("b.png", plain("uint16", 1, largest))]
    assert PixelFormat.of(iter(images)) == PixelFormat("uint16", 1, 0.0, white)


def test_eight_bit_and_float_scales() -> None:
    assert PixelFormat.of([("a", plain("uint8", 3, 9))]) == PixelFormat("uint8", 3, 0.0, 255.0)
    floats = [("a", plain("float32", 7, -0.5)), ("b", plain("float32", 7, 2.5))]
    assert PixelFormat.of(floats) == PixelFormat("float32", 7, -0.5, 2.5)
    assert PixelFormat.of(floats[:1]) == PixelFormat("float32", 7, -0.5, 0.5)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("uint8", 1), "8-bit grey"),
        (("uint8", 4), "8-bit RGBA"),
        (("uint16", 3), "16-bit RGB"),
        (("float32", 7), "float, 7 channels"),
        (("uint8", 2), "8-bit, 2 channels"),
    ],
)
def test_disagreement_names_both_sides(other: tuple[str, int], words: str) -> None:
    good = [("a.png", plain("uint8", 3)), ("b.png", plain("uint8", 3))]
    with pytest.raises(PixelFormatError, match=rf"^a\.png is 8-bit RGB, c\.png is {words}: convert"):
        PixelFormat.of([*good, ("c.png", plain(*other))])
    with pytest.raises(PixelFormatError, match=rf"^c\.png is {words}, but .* fitted on 8-bit RGB pictures"):
        PixelFormat.of(good).check(plain(*other), "c.png")
    PixelFormat.of(good).check(good[0][1], "a.png")


def test_no_good_image_at_all() -> None:
    with pytest.raises(PixelFormatError, match="no good image"):
        PixelFormat.of([])


@given(
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    channels=st.sampled_from([1, 3, 4, 9]),
    seed=st.integers(0, 99),
)
def test_unit_is_linear_and_never_clipped(dtype: str, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (6, 7, channels)).astype(dtype)
    fmt = PixelFormat(dtype, channels, 50.0, 150.0)
    unit = fmt.to_unit(image, (6, 7))
    assert unit.shape == (channels, 6, 7)
    assert unit.dtype == np.float32
    assert unit.flags.c_contiguous
    np.testing.assert_allclose(unit, (image.astype(float).transpose(2, 0, 1) - 50) / 100, atol=1e-6)
    assert fmt.to_unit(image, (3, 14)).shape == (channels, 3, 14)


def test_black_and_white_are_exact() -> None:
    for white in (255, 1023, 4095, 16383, 65535):
        ramp = np.array([0, white], np.uint16).reshape(1, 2, 1)
        assert PixelFormat("uint16", 1, 0.0, white).to_unit(ramp, (1, 2)).ravel().tolist() == [0, 1]


def test_json_round_trip() -> None:
    fmt = PixelFormat.of([("a", plain("float32", 2, 0.1))])
    assert PixelFormat.from_json(json.loads(json.dumps(fmt.to_json()))) == fmt


def test_what_a_person_sees() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb8(image, PixelFormat("uint8", 4, 0.0, 255.0)), image[..., :3])
    bright = np.array([0, 2000, 4095, 65535], np.uint16).reshape(1, 4, 1)
    shown = to_rgb8(bright, PixelFormat("uint16", 1, 0.0, 4095.0))
    assert shown.tolist() == [[[0] * 3, [125] * 3, [255] * 3, [255] * 3]]
    stack = np.broadcast_to(np.arange(5, dtype=np.float32), (2, 2, 5))
    assert (to_rgb8(stack, PixelFormat("float32", 5, 0.0, 4.0)) == 128).all()


def test_grey_products_beside_coloured_ones() -> None:
    grey, colour = PixelFormat.of([("a", plain("uint8", 1))]), PixelFormat.of([("b", plain("uint8", 3))])
    shared = PixelFormat.shared({"nut": grey, "cookie": colour, "screw": grey})
    assert shared == PixelFormat("uint8", 3, 0.0, 255.0, grey_too=True)
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 1), dtype=np.uint8)
    shared.check(picture, "a.png")
    unit = shared.to_unit(picture, (4, 5))
    assert unit.shape == (3, 4, 5)
    np.testing.assert_allclose(unit, np.broadcast_to(picture[..., 0] / 255, (3, 4, 5)), atol=1e-6)
    np.testing.assert_array_equal(to_rgb8(picture, shared), np.broadcast_to(picture, (4, 5, 3)))
    assert PixelFormat.from_json(json.loads(json.dumps(shared.to_json()))) == shared
    with pytest.raises(PixelFormatError, match="8-bit RGBA"):
        shared.check(plain("uint8", 4), "c.png")


def test_products_that_cannot_share_a_format() -> None:
    eight, sixteen = PixelFormat("uint8", 3, 0, 255), PixelFormat("uint16", 3, 0, 4095)
    with pytest.raises(PixelFormatError, match=r"^nut is 8-bit RGB, bolt is 16-bit RGB: fit a model for"):
        PixelFormat.shared({"nut": eight, "bolt": sixteen})
    with pytest.raises(PixelFormatError, match="pin is 8-bit RGBA"):
        PixelFormat.shared({"nut": eight, "pin": PixelFormat("uint8", 4, 0, 255)})
    wider = PixelFormat.shared({"nut": sixteen, "bolt": PixelFormat("uint16", 3, 0, 65535)})
    assert wider == PixelFormat("uint16", 3, 0, 65535)
