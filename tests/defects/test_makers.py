from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from blemish.defects import MAKERS, Defect, Maker, Source, faint, make
from blemish.defects.fills import noise
from blemish.defects.makers import FAINT
from blemish.defects.shapes import rectangle
from blemish.errors import DataError, UsageError

RED, BLUE = np.array([(180, 60, 60), (60, 60, 180)], np.uint8)


def pictures(side: int = 256, *, grey: bool = False) -> Source:
    """Red discs on blue, so that a view shows by itself where its foreground is."""
    rng = np.random.default_rng(11)
    masks = np.zeros((5, side, side), np.uint8)
    for mask in masks:
        centre = rng.integers(side // 3, side // 2, 2).tolist()
        cv2.circle(mask, centre, side // 4, 1, -1)
    images = np.where(masks[..., None] > 0, RED, BLUE)
    images += rng.integers(0, 12, images.shape, np.uint8)
    return Source(images[..., :1].repeat(3, 3) if grey else images, masks > 0)


@pytest.fixture(scope="module")
def source() -> Source:
    return pictures()


def test_registry_is_complete() -> None:
    assert {name: len(maker.labels) for name, maker in MAKERS.items()} == {
        "dm6": 6,
        "noise3": 3,
        "cut3": 3,
        "blob2": 2,
        "scar2": 2,
        "clump2": 2,
        "cutpaste3": 2,
        "draem2": 1,
        "fractal": 1,
    }
    assert MAKERS["dm6"].labels == (
        "bezier/cut",
        "scar/cut",
        "clump/cut",
        "bezier/noise",
        "scar/noise",
        "clump/noise",
    )
    assert all(name == maker.name for name, maker in MAKERS.items())
    with pytest.raises(UsageError, match="choose among dm6"):
        make("dm7", pictures(64), 0, seed=0, epoch=0)


@pytest.mark.parametrize("name", MAKERS)
def test_a_view_differs_from_the_clean_one_only_inside_its_mask(name: str, source: Source) -> None:
    changed = 0
    for index in range(6):
        draw = make(name, source, index, seed=0, epoch=1)
        assert draw.views.shape == (1 + len(MAKERS[name].labels), 256, 256, 3)
        assert not draw.masks[0].any()
        assert (draw.masks[1:].sum((1, 2)) >= 12).all()
        differs = (draw.views != draw.views[0]).any(-1)
        assert not (differs & ~draw.masks).any()
        changed += differs[1:].sum() / draw.masks.sum()
    assert changed / 6 > 0.6


def test_changed_areas_keep_to_their_boxes(source: Source) -> None:
    draws = [make("dm6", source, index, seed=0, epoch=0) for index in range(150)]
    areas = np.array([draw.masks[1:].sum((1, 2)) for draw in draws])
    assert areas[:, [0, 3]].max() <= 0.152 * 256**2
    assert areas[:, [1, 4]].max() <= 21 * 30 * 1.05
    assert areas[:, [2, 5]].max() <= 0.5 * 0.15 * 256**2
    assert areas.min() >= 12
    # Half a box of 8.5 % of the picture on average, and a third of that again for clumps.
    assert areas[:, [0, 3]].mean() / 256**2 == pytest.approx(0.51 * 0.085, rel=0.15)
    assert areas[:, [2, 5]].mean() / areas[:, [0, 3]].mean() == pytest.approx(0.34, abs=0.1)


def test_centres_lie_on_the_foreground_of_the_moved_picture(source: Source) -> None:
    maker = Maker("boxes", (Defect("rectangle/noise", rectangle, noise),))
    seen = set()
    for index in range(100):
        draw = make(maker, source, index, seed=3, epoch=0)
        left, top, width, height = cv2.boundingRect(draw.masks[1].astype(np.uint8))
        red, _, blue = draw.views[0, top + height // 2, left + width // 2].astype(int)
        assert red > blue
        foreground = draw.views[0, ..., 0] > draw.views[0, ..., 2]
        seen.add(tuple(np.argwhere(foreground).mean(0).round().tolist()))
    assert len(seen) > 20  # five pictures under eight moves


def digest(source: Source, name: str, index: int) -> bytes:
    draw = make(name, source, index, seed=7, epoch=2)
    return draw.views.tobytes() + np.packbits(draw.masks).tobytes()


def test_same_seed_same_pictures_in_any_order_and_process() -> None:
    small = pictures(96)
    jobs = [(name, index) for name in ("dm6", "cutpaste3", "draem2", "fractal") for index in (0, 3, 11)]
    here = {job: digest(small, *job) for job in jobs}
    assert {job: digest(small, *job) for job in reversed(jobs)} == here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
        there = worker.map(partial(digest, small), *zip(*jobs, strict=True))
        assert list(there) == [here[job] for job in jobs]
    assert len(set(here.values())) == len(jobs)


def test_seed_epoch_and_index_all_matter(source: Source) -> None:
    first = make("dm6", source, 0, seed=0, epoch=0)
    for seed, epoch, index in [(1, 0, 0), (0, 1, 0), (0, 0, 5)]:
        other = make("dm6", source, index, seed=seed, epoch=epoch)
        assert not np.array_equal(first.masks, other.masks)


def test_without_augmentation_the_clean_view_is_the_picture(source: Source) -> None:
    for index in (2, 7):
        draw = make("cut3", source, index, seed=0, epoch=0, augment=False)
        assert np.array_equal(draw.views[0], source.images[2])


def test_a_grey_product_stays_grey_unless_told() -> None:
    grey = pictures(128, grey=True)
    for name in MAKERS:
        views = make(name, grey, 1, seed=0, epoch=0).views
        assert (views == views[..., :1]).all()
    views = np.concatenate([make("noise3", grey, i, seed=0, epoch=0, compat=True).views for i in range(5)])
    assert (views != views[..., :1]).any()


def test_shapes_of_a_few_pixels_are_drawn_again(source: Source) -> None:
    sizes = iter([2, 3, 20, 2, 2, 2, 2])

    def square(rng: Generator, height: int, width: int) -> NDArray[np.bool_]:
        return np.ones((next(sizes),) * 2, bool)

    maker = Maker("squares", (Defect("square/noise", square, noise),))
    assert make(maker, source, 0, seed=0, epoch=0).masks[1].sum() == 400
    with pytest.raises(DataError, match="Picture 4 got no square/noise defect in 4 attempts"):
        make(maker, source, 4, seed=0, epoch=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (320, 200)])
@pytest.mark.parametrize("name", MAKERS)
def test_pictures_of_any_shape(name: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *size, 3), np.uint8)
    for index in range(10):
        draw = make(name, Source(images), index, seed=0, epoch=0, compat=index % 2 == 1)
        assert draw.views.shape[1:3] == size
        assert draw.masks[1:].any((1, 2)).all()


@pytest.mark.parametrize("size", [(32, 2048), (2048, 32)])
@pytest.mark.parametrize("name", MAKERS)
def test_a_scar_longer_than_an_oblong_picture_is_high_is_drawn_again(
    name: str, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    source = Source(rng.integers(0, 256, (2, *size, 3), np.uint8))
    for index in range(60):
        draw = make(name, source, index, seed=0, epoch=0)
        assert draw.masks[1:].any((1, 2)).all()


def test_faint_defects_are_a_pure_function_of_the_seed(source: Source) -> None:
    pictures, _, numbers = faint(source, 7, seed=3)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert faint(source, 7, seed=3, order=[4, 0, 2]).numbers.tolist() == [4, 0, 2, 4, 0, 2, 4]
    again = faint(source, 7, seed=3).pictures
    assert np.array_equal(pictures, again)
    assert not np.array_equal(pictures, faint(source, 7, seed=4)[0])
    assert len({picture.tobytes() for picture in pictures}) == 7


def test_faint_defects_are_single_weak_and_never_trained_on(source: Source) -> None:
    shares = []
    for draw, (picture, mask, number) in enumerate(zip(*faint(source, 24, seed=1), strict=True)):
        clean = source.images[number].astype(float)
        change = picture - clean
        # One of the six defects of that draw, and the same share of it everywhere.
        views = make("dm6", source, int(number), seed=1, epoch=FAINT + draw, augment=False).views[1:]
        full = views - clean
        fading = (full * change).sum((1, 2, 3)) / (full**2).sum((1, 2, 3))
        left = np.abs(change - fading[:, None, None, None] * full).max((1, 2, 3))
        assert left.min() < 1 < np.sort(left)[1]
        shares.append(fading[left.argmin()])
        assert 12 <= change.any(-1).sum() <= 0.152 * 256**2
        assert mask[change.any(-1)].all()
    assert 0.14 < min(shares) < 0.3
    assert 0.55 < max(shares) < 0.71
    assert FAINT > 10**9  # turns of all pictures: no training comes this far


@pytest.mark.parametrize("part", [np.s_[:, :20], np.s_[:16], np.s_[:40, :40], np.s_[4:124, 2:15]])
@pytest.mark.parametrize("name", ["dm6", "cut3", "noise3"])
def test_parts_at_the_border_get_defects_of_every_kind(name: str, part: tuple[slice, ...]) -> None:
    images = np.full((2, 128, 128, 3), 60, np.uint8)
    foreground = np.zeros((2, 128, 128), bool)
    for image, mask in zip(images, foreground, strict=True):
        image[part], mask[part] = 200, True
    for index in range(60):
        draw = make(name, Source(images, foreground), index, seed=0, epoch=0, augment=index % 2 == 0)
        assert draw.masks[1:].any((1, 2)).all()
