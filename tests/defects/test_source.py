import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from blemish.defects import Source
from blemish.defects.augment import jitter, moves, turn, turn_point
from blemish.defects.paste import blend, place, weigh
from blemish.errors import DataError, MaskError


@given(
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    row=st.integers(0, 5),
    column=st.integers(0, 5),
    move=st.integers(0, 7),
)
def test_a_pixel_moves_with_its_picture(height: int, width: int, row: int, column: int, move: int) -> None:
    row, column = row % height, column % width
    picture = np.zeros((height, width), bool)
    picture[row, column] = True
    assert turn(picture, move)[turn_point(row, column, height, width, move)]


def test_moves_are_the_dihedral_group() -> None:
    picture = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert len({turn(picture, move).tobytes() for move in moves(3, 3)}) == 8
    original = [turn(picture, move).tobytes() for move in moves(3, 3, compat=True)]
    assert len(original) == 9
    assert original.count(np.rot90(picture, 2).T.tobytes()) == 2  # transverse
    assert original.count(picture[:, ::-1].tobytes()) == 2
    assert picture[::-1].tobytes() not in original
    oblong = picture[:2]
    assert {turn(oblong, move).shape for move in moves(2, 3)} == {(2, 3)}
    assert len({turn(oblong, move).tobytes() for move in moves(2, 3)}) == 4


def test_every_foreground_pixel_is_equally_likely() -> None:
    rng = default_rng(0)
    mask = rng.random((1, 9, 7)) < 0.4
    mask[0, [0, 4, 8]] = False
    source = Source(np.zeros((1, 9, 7, 3), np.uint8), mask)
    counts = np.zeros((9, 7))
    for _ in range(6000):
        counts[source.scene(rng, 0, augment=False, compat=False).pick(rng)] += 1
    assert (counts[~mask[0]] == 0).all()
    expected = 6000 / mask.sum()
    assert ((counts[mask[0]] - expected) ** 2 / expected).sum() < 2 * mask.sum()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 24), width=st.integers(1, 24))
def test_a_box_lies_inside_with_its_centre_on_the_foreground(seed: int, height: int, width: int) -> None:
    rng = default_rng(seed)
    mask = rng.random((1, 24, 24)) < rng.choice([0.01, 0.3])
    mask[0, rng.integers(24), rng.integers(24)] = True
    scene = Source(np.zeros((1, 24, 24, 3), np.uint8), mask).scene(rng, 0, augment=True, compat=False)
    foreground = turn(mask[0], scene.move)
    corner = place(rng, scene, height, width)
    if corner is None:
        tops, lefts = np.argwhere(foreground).T - [[height // 2], [width // 2]]
        fits = (tops >= 0) & (tops <= 24 - height) & (lefts >= 0) & (lefts <= 24 - width)
        assert not fits.any()
    else:
        assert 0 <= corner[0] <= 24 - height
        assert 0 <= corner[1] <= 24 - width
        assert foreground[corner[0] + height // 2, corner[1] + width // 2]


def test_jitter_stays_within_a_tenth() -> None:
    rng = default_rng(0)
    picture = np.broadcast_to(rng.integers(60, 180, (8, 8, 1), np.uint8), (8, 8, 3)).copy()
    for _ in range(100):
        jittered = jitter(picture, rng, grey=True)
        assert (jittered == jittered[..., :1]).all()
        assert 0.89 * picture.mean() < jittered.mean() < 1.11 * picture.mean()
        assert 0.8 * picture.std() < jittered.std() < 1.22 * picture.std()
    red = np.full((2, 2, 3), (200, 40, 40), np.uint8)
    hues = [jitter(red, rng, grey=False)[0, 0].astype(int) for _ in range(200)]
    assert any(green > blue + 30 for _, green, blue in hues)
    assert any(blue > green + 30 for _, green, blue in hues)
    assert all(most == max(most, green, blue) for most, green, blue in hues)


@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
def test_a_softened_edge_treats_the_box_as_lying_in_nothing(kernel: int) -> None:
    shape = default_rng(0).random((30, 40)) < 0.97
    shape[10:20] = True
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel, kernel))
    wide = cv2.erode(np.pad(shape, 20).astype(np.float32), window)
    wide = cv2.GaussianBlur(wide, (kernel, kernel), kernel)[20:-20, 20:-20]
    weights = weigh(shape, kernel)
    np.testing.assert_allclose(weights, wide, atol=1e-6)
    assert (kernel == 1) == np.array_equal(weights, shape)
    assert weights.max() <= 1.0001


def test_blending_rounds() -> None:
    picture = np.full((1, 2, 3), 100, np.uint8)
    blend(picture, np.full((1, 2, 3), 201, np.uint8), np.array([[0.25, 1.0]], np.float32))
    assert picture[0, :, 0].tolist() == [125, 201]
    picture = np.full((1, 1, 3), 99, np.uint8)
    blend(picture, np.full((1, 1, 3), 202, np.uint8), np.array([[0.25]], np.float32))
    assert picture[0, 0, 0] == 125  # 124.75


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_pictures_of_another_kind_are_refused(images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(N, H, W, 3\) of uint8"):
        Source(images)


def test_masks_that_do_not_fit_are_refused() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(MaskError, match="one boolean mask"):
        Source(images, np.ones((3, 8, 9), bool))
    foreground = np.ones((3, 8, 8), bool)
    foreground[1] = False
    with pytest.raises(MaskError, match="picture 1 is empty"):
        Source(images, foreground)


def test_the_thickness_is_that_of_the_largest_object() -> None:
    masks = np.zeros((2, 100, 140), np.uint8)
    corners = cv2.boxPoints(((60.0, 50.0), (70.0, 24.0), 30.0))
    cv2.fillPoly(masks[0], [np.rint(corners).astype(np.int32)], 1)
    masks[0, 95:, 120:] = 1
    masks[1] = 1
    source = Source(np.zeros((2, 100, 140, 3), np.uint8), masks > 0, native=500)
    assert source.thickness == pytest.approx([24, 99], abs=1.5)
    assert source.native == 500
    assert Source(source.images).native == 100
