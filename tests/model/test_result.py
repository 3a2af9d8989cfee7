import json
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.model.result import Region, find_regions


def blobs(noise: float) -> np.ndarray:
    random = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(random.normal(size=(256, 256)), (0, 0), 4)
    return np.asarray(smooth + noise * random.normal(size=(256, 256)), np.float32)


def test_known_regions() -> None:
    heat = np.zeros((24, 32), np.float32)
    heat[2:4, 3:6] = 1, 2, 3
    heat[20:24, 30:32] = 9
    heat[10, 10] = heat[11, 11] = 0.5  # joined at a corner
    assert find_regions(heat, 0.5, (24, 32)) == (
        Region(30, 20, 2, 4, 8, 9.0),
        Region(3, 2, 3, 2, 6, 3.0),
        Region(10, 10, 2, 2, 2, 0.5),
    )
    assert find_regions(heat, 3.0, (48, 320)) == (
        Region(300, 40, 20, 8, 160, 9.0),
        Region(50, 4, 10, 4, 40, 3.0),
    )
    assert find_regions(heat, 9.1, (24, 32)) == ()
    assert find_regions(heat, -1.0, (7, 5)) == (Region(0, 0, 5, 7, 35, 9.0),)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    quantile=st.floats(0, 1),
)
def test_boxes_cover_the_defect_and_stay_inside(
    seed: int, shape: tuple[int, int], size: tuple[int, int], quantile: float
) -> None:
    heat = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    threshold = float(np.quantile(heat, quantile, method="lower"))
    regions = find_regions(heat, threshold, size)
    json.dumps([region.peak for region in regions])
    covered = np.zeros(shape, bool)
    down, across = size[0] / shape[0], size[1] / shape[1]
    for region in regions:
        assert 0 <= region.x < region.x + region.w <= size[1]
        assert 0 <= region.y < region.y + region.h <= size[0]
        assert 1 <= region.area <= region.w * region.h
        rows, columns = np.arange(shape[0]), np.arange(shape[1])
        inside_rows = (rows * down >= region.y - 1e-6) & ((rows + 1) * down <= region.y + region.h + 1e-6)
        inside_columns = (columns * across >= region.x - 1e-6) & (
            (columns + 1) * across <= region.x + region.w + 1e-6
        )
        box = np.ix_(inside_rows, inside_columns)
        assert (heat[box] == region.peak).any()
        covered[box] = True
    assert covered[heat >= threshold].all()
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == heat.max()


def best(call: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return min(took)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_takes_less_than_a_millisecond(noise: float) -> None:
    heat = blobs(noise)
    threshold = float(np.quantile(heat, 0.99))
    assert len(find_regions(heat, threshold, (1024, 1280))) > 5
    assert best(lambda: find_regions(heat, threshold, (1024, 1280)), 50) < 1e-3
