import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn import metrics as sklearn

from blemish.errors import DataError, MaskError, UsageError
from blemish.evaluate.metrics import (
    ImageMetrics,
    Pairs,
    PixelMetrics,
    image_metrics,
    pixel_metrics,
    pro_curve,
    rates,
    roc_curve,
)

Maps = list[tuple[NDArray[np.floating], NDArray[np.bool_]]]


def pairs(*pictures: tuple[NDArray[np.floating], NDArray[np.bool_]]) -> Pairs:
    return lambda: pictures


@st.composite
def scores(draw: st.DrawFn, size: int) -> NDArray[np.floating]:
    """Few levels, so that ties abound; negative, huge, or all but equal."""
    levels = draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    dtype, scale, offset = draw(
        st.sampled_from(
            [
                (np.float32, 1.0, 0.0),
                (np.float32, 1e6, -3e6),
                (np.float32, 1e-6, 1.0),
                (np.float64, 1e6, 0.0),
                (np.float64, 1e-6, 1e3),
                (np.float64, 1e-12, 1.0),
            ]
        )
    )
    return (np.array(levels) * scale + offset).astype(dtype)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """At least one of each class."""
    bad = [False, True, *draw(st.lists(st.booleans(), max_size=40))]
    return draw(scores(len(bad))), np.array(draw(st.permutations(bad)))


@st.composite
def maps(draw: st.DrawFn) -> Maps:
    """Pictures of different sizes, good ones among them; at least one pixel of each class."""
    pictures: Maps = []
    densities = draw(st.lists(st.sampled_from([0.0, 0.2, 0.4]), max_size=3))
    for index, density in enumerate([*densities, 0.3]):
        shape = draw(st.integers(2, 7)), draw(st.integers(2, 7))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mask = rng.random(shape) < density
        if index == len(densities):
            mask.flat[:2] = False, True
        levels = rng.integers(-6, 7, shape) + 2 * mask
        pictures.append((levels.astype(np.float32), mask))
    return pictures


def oracle(scores: NDArray[np.floating], bad: NDArray[np.bool_]) -> tuple[float, float, float]:
    precision, recall, _ = sklearn.precision_recall_curve(bad, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return sklearn.roc_auc_score(bad, scores), sklearn.average_precision_score(bad, scores), f1.max()


def oracle_pro(pictures: Maps) -> tuple[list[float], list[float]]:
    """The definition: at every threshold, the share of the background flagged and of each region."""
    regions, background = [], []
    for values, mask in pictures:
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [values[labels == number] for number in range(1, count + 1)]
        background.append(values[~mask])
    negatives = np.concatenate(background)
    fpr, pro = [0.0], [0.0]
    for threshold in sorted({float(v) for values, _ in pictures for v in values.flat}, reverse=True):
        fpr.append(float((negatives >= threshold).mean()))
        pro.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    return fpr, pro


def oracle_aupro(pictures: Maps, limit: float) -> float:
    fpr, pro = oracle_pro(pictures)
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def flat(pictures: Maps) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    return np.concatenate([v.ravel() for v, _ in pictures]), np.concatenate([m.ravel() for _, m in pictures])


@given(labelled())
def test_images_agree_with_scikit_learn(case: tuple[NDArray[np.floating], NDArray[np.bool_]]) -> None:
    got = image_metrics(*case)
    assert (got.auroc, got.ap, got.f1max) == pytest.approx(oracle(*case), abs=1e-12)
    fpr, tpr = roc_curve(*case)
    assert np.trapezoid(tpr, fpr) == pytest.approx(got.auroc, abs=1e-12)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()


@given(maps())
def test_pixels_agree_with_scikit_learn_and_with_the_definition_of_aupro(pictures: Maps) -> None:
    got = pixel_metrics(pairs(*pictures))
    assert (got.auroc, got.ap, got.f1max) == pytest.approx(oracle(*flat(pictures)), abs=1e-12)
    assert got.aupro30 == pytest.approx(oracle_aupro(pictures, 0.3), abs=1e-12)
    assert got.aupro05 == pytest.approx(oracle_aupro(pictures, 0.05), abs=1e-12)
    fpr, pro = pro_curve(pairs(*pictures), limit=0.3, points=31)
    assert pro == pytest.approx(np.interp(fpr, *oracle_pro(pictures)), abs=1e-12)


@given(labelled())
def test_only_the_order_of_scores_counts(case: tuple[NDArray[np.floating], NDArray[np.bool_]]) -> None:
    values, bad = case
    ranks = np.unique(values, return_inverse=True)[1]
    for monotone in (ranks, ranks - 1000.0, np.exp(ranks), ranks.astype(np.float32) ** 3 * 1e6):
        assert image_metrics(monotone, bad) == image_metrics(values, bad)
    assert image_metrics(-values, ~bad).auroc == pytest.approx(image_metrics(values, bad).auroc, abs=1e-15)


def test_many_chunks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        (rng.integers(0, 50, (9, 11)).astype(np.float32), rng.random((9, 11)) < 0.1) for _ in range(40)
    ]
    whole = pixel_metrics(pairs(*pictures))
    monkeypatch.setattr("blemish.evaluate.metrics.CHUNK", 250)
    assert pixel_metrics(pairs(*pictures)) == whole


def test_regions_weigh_the_same_whatever_their_area_and_touch_at_corners() -> None:
    mask = np.zeros((40, 40), bool)
    mask[1:21, 1:21] = True  # found
    mask[30, 30] = mask[31, 31] = True  # one region of two pixels, missed
    values = np.where(mask, 1.0, 0.0)
    values[30:32, 30:32] = -1
    got = pixel_metrics(pairs((values, mask)))
    assert (got.aupro30, got.aupro05) == pytest.approx((0.5, 0.5))


def test_a_perfect_a_useless_and_an_inverted_detector() -> None:
    bad = np.array([False] * 7 + [True] * 3)
    assert image_metrics(bad * 1e-6 + 1, bad) == ImageMetrics(1.0, 1.0, 1.0)
    assert image_metrics(np.full(10, -3.0), bad).auroc == 0.5
    assert image_metrics(~bad, bad).auroc == 0.0
    masks = [np.eye(8, dtype=bool), np.zeros((5, 6), bool)]
    assert pixel_metrics(pairs(*((m * 1e6, m) for m in masks))) == PixelMetrics(1.0, 1.0, 1.0, 1.0, 1.0)
    constant = pixel_metrics(pairs(*((np.zeros(m.shape, np.float32), m) for m in masks)))
    assert (constant.auroc, constant.aupro30, constant.aupro05) == pytest.approx((0.5, 0.15, 0.025))


def test_scores_that_a_narrower_type_or_a_sigmoid_would_merge_stay_apart() -> None:
    bad = np.arange(20) >= 10
    for spread in (1 + np.arange(20) * 1e-12, 1e6 + np.arange(20) * 1e-6, np.arange(20.0) + 800):
        assert image_metrics(spread, bad).auroc == 1
        assert image_metrics(-spread, bad).auroc == 0
        assert pixel_metrics(pairs((spread.reshape(4, 5), bad.reshape(4, 5)))).aupro05 == 1
    assert image_metrics([0.0, -np.inf, np.inf], [False, False, True]).auroc == 1


def test_one_class_alone_has_no_metrics() -> None:
    for bad in ([True, True], [False, False]):
        assert image_metrics([1.0, 2.0], bad) == ImageMetrics(None, None, None)
        assert [len(axis) for axis in roc_curve([1.0, 2.0], bad)] == [0, 0]
        mask = np.array([bad])
        assert pixel_metrics(pairs((np.ones((1, 2), np.float32), mask))) == PixelMetrics()
        assert [len(axis) for axis in pro_curve(pairs((np.ones((1, 2)), mask)))] == [0, 0]
    assert image_metrics([], []) == ImageMetrics()
    assert pixel_metrics(pairs()) == PixelMetrics()


def test_rates_reject_from_the_threshold_up() -> None:
    values, bad = [0.1, 0.2, 0.3, 0.3, 0.1], [False, False, False, True, True]
    assert rates(values, bad, 0.3) == pytest.approx((1 / 3, 0.5))
    assert rates(values, bad, np.nextafter(0.3, 1)) == (0.0, 1.0)
    assert rates([1.0], [True], 0.5) == (None, 0.0)
    assert rates([1.0], [False], 0.5) == (1.0, None)
    # float32(0.7) lies below 0.7, and so it does for whoever compares the score with the threshold by hand.
    assert rates(np.array([0.7], np.float32), [True], 0.7) == (None, 1.0)


def test_what_cannot_be_ranked_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"picture 2 is not a number"):
        image_metrics([1.0, np.nan], [False, True])
    with pytest.raises(UsageError, match="3 scores came with 2 labels"):
        rates([1.0, 2.0, 3.0], [False, True], 0.5)
    good = np.zeros((2, 3), np.float32), np.array([[0, 0, 1], [0, 0, 0]], bool)
    for broken in (np.full((2, 3), np.nan), np.array([[0, 0, np.nan], [0, 0, 0]])):
        with pytest.raises(DataError, match="test picture 2 has values that are not numbers"):
            pixel_metrics(pairs(good, (broken, good[1])))
    with pytest.raises(MaskError, match=r"test picture 1 has shape \(2, 3\), its mask \(3, 2\)"):
        pixel_metrics(pairs((good[0], good[1].T)))
    spent = iter([good])
    with pytest.raises(UsageError, match="starts anew"):
        pixel_metrics(lambda: spent)


def test_maps_are_streamed() -> None:
    mask = np.zeros((256, 256), bool)
    mask[40:60, 60:90] = True

    def pictures() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        for index in range(400):
            rng = np.random.default_rng([0, 0, index])
            yield rng.standard_normal(mask.shape, dtype=np.float32) + mask, mask

    tracemalloc.start()
    try:
        got = pixel_metrics(pictures)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.auroc == pytest.approx(0.7602, abs=2e-3)  # Φ(1/√2): two normal scores one deviation apart
    assert peak < 80e6 < 400 * mask.size * 4
