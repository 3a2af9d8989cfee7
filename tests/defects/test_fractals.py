from collections.abc import Iterator
from itertools import product
from typing import Any, get_args, get_type_hints

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.typing import NDArray

from blemish.defects import Draw, FractalMaker, Source, fractals, make
from blemish.defects.fractalmaker import change_channels
from blemish.defects.fractals import (
    affine_maps,
    chaos_game,
    diamond_square,
    dots_of,
    silhouette,
    singular_values,
)
from blemish.errors import DataError, UsageError

SQUARE = np.ones((7, 7), np.uint8)  # three dilations by 3×3
SILHOUETTES = get_args(get_type_hints(FractalMaker)["silhouette"])
RECOLOURS = get_args(get_type_hints(FractalMaker)["recolour"])
RED, BLUE = np.array([(180, 60, 60), (60, 60, 180)], np.uint8)


def weave(side: int = 128, *, grey: bool = False, native: int | None = None) -> Source:
    rng = default_rng(4)
    images = rng.integers(40, 200, (3, side // 4, side // 4, 1 if grey else 3), np.uint8)
    images = np.broadcast_to(images, (*images.shape[:3], 3)).repeat(4, 1).repeat(4, 2)
    return Source(images, native=native)


def discs() -> Source:
    """Red discs on blue."""
    masks = np.zeros((3, 160, 200), np.uint8)
    for number, mask in enumerate(masks):
        cv2.circle(mask, (70 + 30 * number, 60 + 20 * number), 25 + 5 * number, 1, -1)
    images = np.where(masks[..., None] > 0, RED, BLUE)
    return Source(images + default_rng(2).integers(0, 12, images.shape, np.uint8), masks > 0)


def draws(source: Source, count: int, *, augment: bool = False, **fields: Any) -> Iterator[Draw]:
    maker = FractalMaker(**fields)
    return (make(maker, source, index, seed=8, epoch=1, augment=augment) for index in range(count))


def changed(draw: Draw) -> NDArray[np.bool_]:
    return (draw.views[1] != draw.views[0]).any(-1)


@given(seed=st.integers(0, 2**32), maps=st.integers(2, 5))
def test_singular_values_keep_to_their_sum_order_and_bounds(seed: int, maps: int) -> None:
    values = singular_values(default_rng(seed), maps)
    total = default_rng(seed).uniform((5 + maps) / 2, (6 + maps) / 2)
    assert (values @ [1, 2]).sum() == pytest.approx(total, abs=1e-9)
    first, second = values.T
    assert (first <= 1 + 1e-9).all()
    assert (second <= first + 1e-9).all()
    assert (second >= -1e-9).all()


@given(seed=st.integers(0, 2**32), maps=st.integers(2, 5))
def test_maps_never_expand_and_have_the_values_drawn(seed: int, maps: int) -> None:
    matrices, offsets = affine_maps(default_rng(seed), maps)
    found = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(found, singular_values(default_rng(seed), maps), atol=1e-9)
    assert np.abs(offsets).max() <= 1


def test_half_of_the_maps_reflect() -> None:
    rng = default_rng(0)
    determinants = [np.linalg.det(affine_maps(rng, 2)[0]) for _ in range(300)]
    assert np.mean(np.array(determinants) < 0) == pytest.approx(0.5, abs=0.08)


def test_the_chaos_game_draws_the_attractor() -> None:
    offsets = np.array([(0, 0), (0.5, 0), (0, 0.5)])
    x, y = chaos_game(default_rng(0), np.tile(np.eye(2) / 2, (3, 1, 1)), offsets).reshape(2, -1)
    assert len(x) == 100_000
    cells = set(zip((x * 64).astype(int).tolist(), (y * 64).astype(int).tolist(), strict=True))
    # Sierpinski's triangle: cells whose coordinates share no binary digit.
    assert cells == {(a, b) for a, b in product(range(64), repeat=2) if not a & b}


def test_a_map_is_chosen_by_the_area_it_leaves() -> None:
    matrices = np.array([np.diag([0.5, -0.8]), np.diag([0.25, 0.8])])
    x, _ = chaos_game(default_rng(0), matrices, np.array([(0, 0), (0.75, 0)])).reshape(2, -1)
    assert np.mean(x < 0.6) == pytest.approx(2 / 3, abs=0.01)


def test_dots_reach_every_side_of_their_square() -> None:
    rng = default_rng(0)
    for side in (2, 9, 300):
        dots = dots_of(chaos_game(rng, *affine_maps(rng, 2)), side)
        assert dots.shape == (side, side)
        assert all(dots[edge].any() and dots[:, edge].any() for edge in (0, -1))
    line = np.zeros((2, 5, 10), np.float32)
    line[0] = np.linspace(0, 1, 50).reshape(5, 10)
    assert dots_of(line, 40)[0].all()


@pytest.mark.parametrize(
    ("side", "mean", "spread"),
    [
        (64, 0.41, (0.20, 0.66)),
        (128, 0.34, (0.14, 0.60)),
        (256, 0.28, (0.10, 0.54)),
        (512, 0.22, (0.07, 0.44)),
        (110, 0.36, (0.16, 0.61)),  # not one of the stored sides
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_the_larger_a_fractal_the_thinner_its_brush(
    side: int, mean: float, spread: tuple[float, float], fresh: bool
) -> None:
    rng = default_rng(1)
    shares = [silhouette(rng, side, fresh=fresh).mean() for _ in range(300)]
    assert np.mean(shares) == pytest.approx(mean, abs=0.025)
    assert np.percentile(shares, [10, 90]) == pytest.approx(spread, abs=0.06)


def test_a_stored_fractal_is_turned_and_brushed_anew() -> None:
    rng = default_rng(0)
    seen = {silhouette(rng, 1024).tobytes() for _ in range(256)}
    assert len(seen) > 250  # of 64 that are stored
    assert fractals.bank(3, 64, 2).nbytes == 512


def test_clouds_cover_half() -> None:
    rng = default_rng(3)
    masks = [diamond_square(rng, side) for side in (33, 100) for _ in range(100)]
    assert np.mean([mask.mean() for mask in masks]) == pytest.approx(0.5, abs=0.04)
    edges = np.array([(mask[:, 1:] != mask[:, :-1]).mean() for mask in masks[100:]])
    assert 0.01 < edges.mean() < 0.1
    assert diamond_square(rng, 2).shape == (2, 2)


@pytest.mark.parametrize("native", [128, 700, 60])
@pytest.mark.parametrize("name", SILHOUETTES)
def test_before_the_jitter_nothing_changes_but_what_the_mask_tells(name: str, native: int) -> None:
    covered = []
    source = weave(native=native)
    for draw in draws(source, 12, silhouette=name, noise=False):
        assert np.array_equal(draw.views[0], source.images[len(covered) % 3])
        assert not draw.masks[0].any()
        mask = draw.masks[1]
        assert not (changed(draw) & ~mask).any()
        covered.append(changed(draw).sum() / mask.sum())
        grown = np.pad(mask, 7, mode="edge").astype(np.uint8)
        assert np.array_equal(cv2.morphologyEx(grown, cv2.MORPH_OPEN, SQUARE)[7:-7, 7:-7], mask)
    assert np.mean(covered) > 0.3


def test_masks_are_dilated_as_told() -> None:
    for none, one, three in zip(*(draws(weave(), 10, dilation=steps) for steps in (0, 1, 3)), strict=True):
        plain = none.masks[1].astype(np.uint8)
        assert np.array_equal(cv2.dilate(plain, SQUARE[:3, :3]), one.masks[1])
        assert np.array_equal(cv2.dilate(plain, SQUARE), three.masks[1])


@pytest.mark.parametrize(
    ("name", "share"), [("square", 2 * np.sqrt(2) - 2), ("ellipse", np.pi / 4), ("fractal", 0.36)]
)
def test_silhouettes_fill_their_share_of_the_turned_patch(name: str, share: float) -> None:
    """Of a square turned by 45°, 83 % lie on the square."""
    shares = []
    for draw in draws(weave(512), 40, silhouette=name, dilation=0):
        _, _, width, height = cv2.boundingRect(draw.masks[1].astype(np.uint8))
        shares.append(draw.masks[1].sum() / max(width, height) ** 2)
    assert np.mean(shares) == pytest.approx(share, abs=0.06)


def test_a_finer_silhouette_is_thinner_and_its_edge_is_soft() -> None:
    flat = np.full((1, 128, 128, 3), 120, np.uint8)
    levels, strengths = {}, {}
    for native in (128, 1024):
        found = list(draws(Source(flat, native=native), 40, recolour="harsh", noise=False))
        parts = [draw.views[1, ..., 0][changed(draw)] for draw in found]
        levels[native] = np.median([len(np.unique(part)) for part in parts])
        strengths[native] = np.mean(
            [np.abs(part - 120.0).sum() / np.ptp(np.append(part, 120)) / 128**2 for part in parts]
        )
    assert levels[128] == 1
    assert levels[1024] > 10
    assert strengths[1024] < 0.85 * strengths[128]
    coarse = draws(Source(flat, native=1024), 10, recolour="harsh", noise=False, brush="working")
    assert np.median([len(np.unique(draw.views[1])) for draw in coarse]) == 2


def test_free_patches_keep_to_their_sides_and_margins() -> None:
    places, sides = [], []
    for draw in draws(weave(200), 150, silhouette="square", dilation=0):
        left, top, width, height = cv2.boundingRect(draw.masks[1].astype(np.uint8))
        places.append((left, top, left + width, top + height))
        sides.append(max(width, height))
    assert np.min(places) in range(20, 24)
    assert np.max(places) in range(176, 182)
    assert 20 <= min(sides) < 24
    assert 94 < max(sides) <= 101
    assert np.mean(sides) == pytest.approx(60, abs=6)


def test_on_an_object_patches_are_taken_and_put_about_its_pixels() -> None:
    source = discs()
    ratios = []
    for index, draw in enumerate(draws(source, 150, silhouette="square", recolour="none", noise=False)):
        picture = index % 3
        left, top, width, height = cv2.boundingRect(draw.masks[1].astype(np.uint8))
        row, column = top + height // 2, left + width // 2
        near = source.foreground[picture, row - 1 : row + 2, column - 1 : column + 2]
        assert near.any()
        if min(top, left, 160 - top - height, 200 - left - width) > 0:
            ratios.append((max(width, height) - 6) / source.thickness[picture])
        taken = draw.views[1, row - 1 : row + 2, column - 1 : column + 2]
        assert (taken[..., 0] > taken[..., 2]).any()
    assert min(ratios) < 0.15
    assert 1.2 < max(ratios) < 1.56


def test_where_all_is_foreground_patches_are_free() -> None:
    for free, fallen_back in zip(*(draws(weave(), 8, objects=on) for on in (False, True)), strict=True):
        assert np.array_equal(free.views, fallen_back.views)


def test_patches_too_large_for_their_object_are_free() -> None:
    frame = np.ones((3, 128, 128), bool)
    frame[:, 10:-10, 10:-10] = False
    source, sides = Source(weave().images, frame), {True: [], False: []}
    for draw in draws(source, 80, silhouette="square", dilation=0):
        left, top, width, height = cv2.boundingRect(draw.masks[1].astype(np.uint8))
        centred = bool(frame[0, top + height // 2, left + width // 2])
        sides[centred].append(max(width, height))
    assert 0 < max(sides[True]) <= 20
    assert np.min(sides[False]) > 12
    assert 40 < np.max(sides[False]) <= 64


@pytest.mark.parametrize("grey", [True, False])
def test_changed_channels_wrap_or_are_clipped(grey: bool) -> None:
    patch = default_rng(0).integers(0, 256, (9, 9, 1 if grey else 3), np.uint8)
    patch = np.broadcast_to(patch, (9, 9, 3))
    channels = set()
    for seed in range(40):
        rng, expected = default_rng(seed), {wrap: patch.astype(int) for wrap in (True, False)}
        for _ in range(2):
            at: Any = slice(None) if grey else int(rng.integers(3))
            factor = rng.uniform(0, 2)
            for wrap, levels in expected.items():
                times = np.floor(levels[..., at] * factor).astype(int)
                levels[..., at] = times % 256 if wrap else np.minimum(times, 255)
        for wrap, levels in expected.items():
            found = change_channels(default_rng(seed), patch, grey=grey, wrap=wrap)
            assert np.array_equal(found, levels)
        channels.add(tuple((expected[True] != patch).any((0, 1)).tolist()))
    assert len(channels) == (1 if grey else 6)  # one of three, or two


def test_recolouring_goes_as_far_as_it_says() -> None:
    def changes(**fields: Any) -> NDArray[np.float64]:
        flat = Source(np.full((1, 96, 96, 3), (150, 120, 90), np.uint8))
        found = list(draws(flat, 60, silhouette="square", noise=False, **fields))
        return np.array([np.ptp(draw.views[1].astype(float) - draw.views[0], (0, 1)) for draw in found])

    mild, harsh, channels = (changes(recolour=name) for name in ("mild", "harsh", "channels"))
    assert mild.max() < 0.6 * 150
    assert harsh.max(1).mean() > 2 * mild.max(1).mean()
    assert ((channels > 0).sum(1) <= 2).all()
    assert np.ptp(changes(recolour="channels", wrap=False), axis=1).max() > 60
    mixed = (changes(recolour="mixed") > 0).sum(1)
    assert {1, 2, 3} <= set(mixed.tolist())


def test_noise_lies_on_every_other_patch_within_the_mask() -> None:
    spread = []
    for plain, noisy in zip(*(draws(weave(), 80, noise=on) for on in (False, True)), strict=True):
        assert np.array_equal(plain.masks, noisy.masks)
        grain = noisy.views[1].astype(float) - plain.views[1]
        assert not grain[~plain.masks[1]].any()
        inner = plain.masks[1] & (plain.views[1] > 40).all(-1) & (plain.views[1] < 215).all(-1)
        spread.append(grain[inner].std())
        assert np.ptp(grain[inner], axis=-1).max() == 0  # one value for all channels
    has = np.array(spread) > 0
    assert has.mean() == pytest.approx(0.5, abs=0.15)
    assert np.array(spread)[has].mean() == pytest.approx(10, abs=0.5)


def test_a_native_paste_then_reduced_looks_the_same() -> None:
    """What the original does, by hand, with the places, angle and silhouette of one draw after another."""
    errors, contrasts = [], []
    rng = default_rng(2)
    large = cv2.resize(
        rng.integers(30, 220, (64, 64, 3), np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC
    )
    small = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    source = Source(small[None], native=512)
    maker = FractalMaker(silhouette="square", recolour="none", noise=False)
    for index in range(25):
        draw = make(maker, source, index, seed=0, epoch=0, augment=False)
        again = default_rng([0, 0, index])
        again.integers(1)
        side = round(again.uniform(0.1, 0.5) * 128)
        (y, x), (v, u) = again.uniform(12.8, 115.2 - side, (2, 2)).astype(int).tolist()
        angle, fine = again.uniform(15, 75), 4 * side
        flips = [again.choice([-1, 1]) for _ in range(2)]
        patch = large[4 * y : 4 * y + fine, 4 * x : 4 * x + fine][:: flips[0], :: flips[1]]
        patch = np.dstack([patch, np.full((fine, fine), 255, np.uint8)])
        turning = cv2.getRotationMatrix2D(((fine - 1) / 2,) * 2, angle, 1)
        patch = cv2.warpAffine(patch, turning, (fine, fine), flags=cv2.INTER_NEAREST)
        pasted = large.copy()
        under = pasted[4 * v : 4 * v + fine, 4 * u : 4 * u + fine]
        under[:] = np.where(patch[..., 3:] > 0, patch[..., :3], under)
        pasted = cv2.resize(pasted, (128, 128), interpolation=cv2.INTER_AREA).astype(float)
        errors.append(np.abs(pasted - draw.views[1])[draw.masks[1]].mean())
        contrasts.append(np.abs(pasted - draw.views[0])[draw.masks[1]].mean())
    assert np.mean(contrasts) > 20
    assert np.mean(errors) < 0.1 * np.mean(contrasts)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("recolour", RECOLOURS)
@pytest.mark.parametrize("augment", [True, False])
def test_even_on_flat_pictures_something_shows(level: int, recolour: str, augment: bool) -> None:
    flat = Source(np.full((1, 64, 64, 3), level, np.uint8))
    for draw in draws(flat, 25, augment=augment, recolour=recolour, noise=False):
        assert changed(draw).any()
        assert not (changed(draw) & ~draw.masks[1]).any()


@settings(deadline=None, max_examples=100)
@given(
    size=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    native=st.integers(1, 2000),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(SILHOUETTES),
    compat=st.booleans(),
)
def test_pictures_of_three_pixels_or_more_are_painted_on(
    size: tuple[int, int], native: int, seed: int, name: Any, compat: bool
) -> None:
    rng = default_rng(seed)
    foreground = rng.random((1, *size)) < 0.3
    foreground[0, 0, rng.integers(size[1])] = True
    source = Source(rng.integers(0, 256, (1, *size, 3), np.uint8), foreground, native=native)
    draw = make(FractalMaker(silhouette=name, compat=compat), source, 0, seed=seed, epoch=0)
    assert changed(draw).any()
    assert draw.masks[1].any()


@pytest.mark.parametrize("size", [(2, 2), (1, 30), (30, 2)])
def test_smaller_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"Pictures of {size[0]}×{size[1]} pixels are smaller than"):
        make("fractal", Source(np.zeros((1, *size, 3), np.uint8)), 0, seed=0, epoch=0)


def test_colours_on_a_grey_product_only_as_in_the_original() -> None:
    def coloured(**fields: bool) -> bool:
        found = draws(weave(grey=True), 20, augment=True, **fields)
        return any((draw.views != draw.views[..., :1]).any() for draw in found)

    assert not coloured()
    assert coloured(compat=True)
    original = make(FractalMaker(compat=True), weave(), 0, seed=0, epoch=0)
    assert np.array_equal(make("fractal", weave(), 0, seed=0, epoch=0, compat=True).views, original.views)


def test_more_maps_make_other_fractals() -> None:
    two, four = (next(draws(weave(), 1, maps=maps)) for maps in ((2, 2), (4, 4)))
    assert not np.array_equal(two.masks, four.masks)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"maps": (1, 2)}, r"maps is \(1, 2\)"),
        ({"maps": (4, 3)}, r"maps is \(4, 3\)"),
        ({"dilation": -1}, "dilation is -1: give at least 0"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        FractalMaker(**fields)
