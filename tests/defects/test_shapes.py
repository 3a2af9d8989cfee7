from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from blemish.defects.shapes import (
    bezier,
    blob,
    clump,
    outline,
    perlin,
    rectangle,
    resize,
    scar,
    speckle,
    strip,
)

BOXES = [(40, 40), (30, 90), (90, 30), (70, 120)]


def plain_outline(rng: Generator, points: int, tension: float) -> NDArray[np.float64]:
    """The published recipe, one vertex and one point at a time."""
    corners = rng.integers(0, 100, (points, 2)).astype(float)
    centre = corners.mean(0)
    corners = np.array(sorted(corners, key=lambda p: np.arctan2(p[1] - centre[1], p[0] - centre[0])))
    straight = rng.random(points) < 0.5
    middles = [(corners[i] + corners[(i + 1) % points]) / 2 for i in range(points)]
    lengths = [np.linalg.norm(corners[(i + 1) % points] - corners[i]) for i in range(points)]
    entering, leaving = {}, {}
    for i in range(points):
        after, vertex = (i + 1) % points, corners[(i + 1) % points]
        ratio = lengths[i] / (lengths[i] + lengths[after] or 1)
        shift = vertex - (middles[i] + ratio * (middles[after] - middles[i]))
        a, b = middles[i] + shift, middles[after] + shift
        entering[after], leaving[after] = a + tension * (vertex - a), b + tension * (vertex - b)
    curve = []
    for i in range(points):
        after = (i + 1) % points
        for t in np.linspace(0, 1, 12)[: 1 if straight[i] else 11]:
            curve.append(
                (1 - t) ** 3 * corners[i]
                + 3 * t * (1 - t) ** 2 * leaving[i]
                + 3 * t**2 * (1 - t) * entering[after]
                + t**3 * corners[after]
            )
    return np.array(curve)


@given(seed=st.integers(0, 2**32), points=st.integers(5, 9), tension=st.sampled_from([0.2, 0.3, 0.4]))
def test_outline_follows_the_recipe(seed: int, points: int, tension: float) -> None:
    expected = plain_outline(default_rng(seed), points, tension)
    np.testing.assert_allclose(outline(default_rng(seed), points, tension), expected, atol=1e-9)


def test_a_blob_fills_half_of_its_box_and_reaches_every_side() -> None:
    rng = default_rng(0)
    shares = []
    for turn in range(1500):
        mask = bezier(rng, *BOXES[turn % len(BOXES)])
        assert mask[0].any()
        assert mask[-1].any()
        assert mask[:, 0].any()
        assert mask[:, -1].any()
        shares.append(mask.mean())
    assert np.mean(shares) == pytest.approx(0.51, abs=0.03)
    assert np.percentile(shares, [10, 90]) == pytest.approx([0.32, 0.68], abs=0.05)


def test_coarse_noise_keeps_a_third() -> None:
    rng = default_rng(0)
    shares = [speckle(rng, *BOXES[turn % len(BOXES)], 1.0).mean() for turn in range(1500)]
    assert np.mean(shares) == pytest.approx(0.34, abs=0.02)
    assert np.percentile(shares, [10, 90]) == pytest.approx([0.28, 0.41], abs=0.04)


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (160, 320)])
def test_large_shapes_keep_to_their_area_and_aspect(size: tuple[int, int]) -> None:
    rng = default_rng(1)
    for shape, aspect in [(rectangle, 3.3), (blob, 3.3), (clump, 3.0)]:
        boxes = np.array([shape(rng, *size).shape for _ in range(400)])
        areas, aspects = boxes.prod(1) / np.prod(size), boxes[:, 1] / boxes[:, 0]
        assert 0.019 < areas.min() < 0.03
        assert 0.14 < areas.max() < 0.152
        assert aspects.max() <= aspect * 1.05
        assert aspects.min() >= 1 / aspect / 1.05
        assert (boxes <= np.array(size)).all()
        assert np.median(np.log(aspects)) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("side", [256, 512])
def test_scars_keep_to_their_length(side: int) -> None:
    rng, scale = default_rng(2), side / 256
    for shape in (scar, strip):
        masks = [shape(rng, side, side) for _ in range(500)]
        longest = max(max(mask.shape) for mask in masks)
        assert 30 * scale < longest <= sqrt(21**2 + 30**2) * scale + 2
        assert max(mask.sum() for mask in masks) <= 21 * 30 * scale**2 * 1.05
        assert all(mask[edge].any() and mask[:, edge].any() for mask in masks for edge in (0, -1))


def test_perlin_mask_is_cloudy_and_covers_half() -> None:
    rng = default_rng(3)
    masks = [perlin(rng, 128, 192) for _ in range(200)]
    assert np.mean([mask.mean() for mask in masks]) == pytest.approx(0.5, abs=0.03)
    changes = [(mask[:, 1:] != mask[:, :-1]).mean() for mask in masks]
    assert max(changes) < 0.35  # even the finest grid, 32 cells, is smooth at this size
    assert min(changes) < 0.02  # and the coarsest has a patch or two


def test_resize_averages_what_it_shrinks() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (4, 32))
    assert (resize(stripes, 8, 32) == 100).all()
    assert resize(stripes[:, :, None].repeat(3, 2), 2, 16).shape == (2, 16, 3)
