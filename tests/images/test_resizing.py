import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.images import resize, resize_mask

SIDES = st.integers(1, 40)


@settings(deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    channels=st.sampled_from([1, 2, 3, 4, 5, 9]),
    shape=st.tuples(SIDES, SIDES),
    size=st.tuples(SIDES, SIDES),
)
def test_any_shape_to_any_size(
    dtype: str, channels: int, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(20, 200, (*shape, channels)).astype(dtype)
    resized = resize(image, size)
    assert resized.shape == (*size, channels)
    assert resized.dtype == dtype
    assert resized.flags.c_contiguous
    assert image.min() - 1e-3 <= resized.min()  # no ringing
    assert resized.max() <= image.max() + 1e-3
    for c in range(channels):
        alone = resize(image[..., c : c + 1], size)[..., 0]
        np.testing.assert_allclose(resized[..., c], alone, atol=1e-3 if dtype == "float32" else 1)


def test_the_right_size_is_returned_as_it_is() -> None:
    image = np.zeros((3, 4, 1), np.uint8)
    assert resize(image, (3, 4)) is image


@given(
    shape=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_shrinking_keeps_the_mean(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random((*shape, 2), np.float32)
    np.testing.assert_allclose(resize(image, size).mean((0, 1)), image.mean((0, 1)), atol=1e-4)


def test_a_checkerboard_becomes_grey() -> None:
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    for size in ((32, 32), (48, 48), (20, 96), (32, 200)):
        resized = resize(board, size).astype(int)
        assert abs(resized.mean() - 127.5) < 1.5
        if size[1] <= 48:
            assert np.ptp(resized) <= 60


def test_each_axis_by_its_own_rule() -> None:
    ramp = np.repeat(np.arange(8, dtype=np.float32)[:, None, None], 3, axis=1)
    resized = resize(ramp, (4, 9))
    np.testing.assert_allclose(resized[..., 0], np.repeat([[0.5], [2.5], [4.5], [6.5]], 9, axis=1))


@settings(deadline=None)
@given(
    defects=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 23)), min_size=1, max_size=12),
    size=st.tuples(SIDES, SIDES),
)
def test_no_defect_ever_vanishes(defects: list[tuple[int, int]], size: tuple[int, int]) -> None:
    mask = np.zeros((30, 24), bool)
    for y, x in defects:
        mask[y, x] = True
    resized = resize_mask(mask, size)
    assert resized.shape == size
    for y, x in defects:
        # Its own place, or one beside it when the pixel belongs to a larger defect.
        top, left = (y - 2) * size[0] // 30, (x - 2) * size[1] // 24
        bottom, right = (y + 3) * size[0] // 30 + 1, (x + 3) * size[1] // 24 + 1
        alone = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum() == 1
        assert not alone or resized[max(0, top) : bottom, max(0, left) : right].any()
    assert resized.any()


def test_masks_follow_coverage() -> None:
    mask = np.zeros((40, 40), bool)
    mask[8:24, 8:20] = True
    mask[36, 1] = True
    expected = np.zeros((10, 10), bool)
    expected[2:6, 2:5] = True
    expected[9, 0] = True
    np.testing.assert_array_equal(resize_mask(mask, (10, 10)), expected)
    np.testing.assert_array_equal(resize_mask(mask, (40, 40)), mask)
    assert not resize_mask(np.zeros((40, 40), bool), (7, 9)).any()


@pytest.mark.parametrize("factor", [2, 3])
def test_masks_grow(factor: int) -> None:
    mask = np.random.default_rng(0).random((20, 20)) > 0.7
    centres = slice(factor // 2, None, factor)
    assert resize_mask(mask, (20 * factor, 20 * factor))[centres, centres][mask].mean() > 0.9
