"""Maps to masks, held against cv2 and NumPy, and what fills the holes."""

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.masking import MOST, RULES, SPECK, Masking, excise, mosaic, without_specks
from blemish.nets.runtime import export

Map = NDArray[np.float32]


def smooth(seed: int, shape: tuple[int, ...]) -> Map:
    """Like an attention map: a few peaks on a low ground."""
    noise = np.random.default_rng(seed).random(shape, np.float32)
    peaks = np.stack([cv2.GaussianBlur(each, (0, 0), 3) for each in noise])
    peaks = (peaks - peaks.min()) ** 6 + 1e-9
    return (peaks / peaks.sum((1, 2), keepdims=True)).astype(np.float32)


def specks_dropped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SPECK
    large[0] = False
    return large[labels]


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 17), st.integers(1, 17))),
    st.sampled_from([0.0, 0.1, 0.25, 0.4]),
    st.integers(0, 2**32 - 1),
)
def test_specks_are_dropped_as_by_labelling(shape: NDArray[np.bool_], density: float, seed: int) -> None:
    masks = shape | (np.random.default_rng(seed).random(shape.shape) < density)
    found = without_specks(torch.from_numpy(masks)).numpy()
    assert np.array_equal(found, np.stack([specks_dropped(mask) for mask in masks]))


def test_a_component_counts_whole_however_long_and_wound() -> None:
    """Lines along which the pixels' numbers rise, a spiral, and a comb: each one pixel wide."""
    drawn = np.zeros((6, 40, 40), np.uint8)
    drawn[0, 3, 2:10], drawn[0, 20, 2:11] = 1, 1
    drawn[1, 2:10, 3], drawn[1, 2:11, 20] = 1, 1
    for step in range(9):
        drawn[2, 2 + step, 20 - step] = 1
        drawn[2, 30 - step, 39 - step] = step < 8
    left, top, right, bottom = 0, 0, 39, 39
    while right - left > 3:
        corners = [
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
            (left, top + 2),
            (left + 2, top + 2),
        ]
        cv2.polylines(drawn[3], [np.array(corners)], False, 1)
        left, top, right, bottom = left + 2, top + 2, right - 2, bottom - 2
    drawn[4, ::2], drawn[4, :, 0] = 1, 1
    drawn[5] = 1
    masks = drawn.astype(bool)
    found = without_specks(torch.from_numpy(masks)).numpy()
    assert np.array_equal(found, np.stack([specks_dropped(mask) for mask in masks]))
    assert not found[0, 3].any()
    assert np.array_equal(found[3:], masks[3:])


@pytest.mark.parametrize(("rule", "count"), [("tukey", 0.674), ("sigma1", 1), ("sigma2", 2), ("sigma3", 3)])
def test_deviations_above_the_mean_of_each_map(rule: str, count: float) -> None:
    maps = smooth(0, (3, 30, 41)).reshape(3, -1)
    for found, values in zip(RULES[rule](torch.from_numpy(maps).double()), maps.astype(float), strict=True):
        assert float(found) == pytest.approx(values.mean() + count * values.std(), rel=1e-12)


@pytest.mark.parametrize(("rule", "share"), [("top1", 0.01), ("top5", 0.05), ("top10", 0.1), ("top25", 0.25)])
def test_the_highest_share(rule: str, share: float) -> None:
    maps = torch.from_numpy(smooth(1, (3, 30, 41)).reshape(3, -1))
    chosen = maps > RULES[rule](maps)
    assert (chosen.sum(1) == int(share * 30 * 41)).all()
    assert (torch.where(chosen, maps, torch.inf).amin(1) > torch.where(chosen, 0, maps).amax(1)).all()
    levels = (maps * 2000).round()  # many are equal: never more than the share
    assert ((levels > RULES[rule](levels)).float().mean(1) <= share).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (9, 13), elements=st.integers(0, 255)))
def test_otsu_is_that_of_cv2(levels: NDArray[np.uint8]) -> None:
    def between(mask: NDArray[np.bool_]) -> float:
        share = mask.mean()
        if share in (0, 1):
            return 0.0
        return share * (1 - share) * (levels[mask].mean() - levels[~mask].mean()) ** 2

    values = torch.from_numpy(levels.reshape(1, -1)).double()
    found = (values > RULES["otsu"](values)).numpy().reshape(levels.shape)
    _, theirs = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    # Two thresholds may part the classes equally well.
    assert between(found) == pytest.approx(between(theirs > 0), rel=1e-9)


def by_hand(values: Map, rule: str, dilation: int) -> NDArray[np.bool_]:
    """The whole of it with cv2 and a sort."""
    doubles = values.astype(float)
    threshold = float(RULES[rule](torch.from_numpy(doubles).reshape(1, -1)))
    found = specks_dropped(doubles > threshold).astype(np.uint8)
    side = 2 * dilation + 1
    found = cv2.dilate(found, np.ones((side, side), np.uint8)).astype(bool)
    allowed = int(MOST * found.size)
    if found.sum() > allowed:
        found &= doubles > np.sort(doubles[found])[::-1][allowed]
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_masks_and_their_exported_graph(rule: str, size: tuple[int, int]) -> None:
    class OfPictures(nn.Module):
        def __init__(self, masking: Masking) -> None:
            super().__init__()
            self.masking = masking

        def forward(self, pictures: Tensor) -> Tensor:
            return self.masking(pictures[:, 0])

    maps = np.concatenate([smooth(2, (3, *size)), np.full((1, *size), 0.25, np.float32)])
    for dilation in (0, 4):
        masking = Masking(rule, dilation)
        masks = masking(torch.from_numpy(maps)).numpy()
        assert masks.dtype == np.float32
        assert np.array_equal(masks, np.stack([by_hand(each, rule, dilation) for each in maps]))
        assert 0 < masks[:3].mean() <= MOST
        assert not masks[3].any()  # nothing stands out of an even map

        graph = export(OfPictures(masking), 1, size, ["masks"])
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for count in (1, 4):
            (found,) = session.run(None, {"pixels": maps[:count, None]})
            assert np.array_equal(found, masks[:count])


def test_a_large_mask_keeps_its_highest_half() -> None:
    maps = torch.linspace(0, 1, 64 * 64).reshape(1, 64, 64)
    masks = Masking("tukey", 16)(maps)
    assert masks.sum() == 64 * 64 // 2
    assert masks[0, 32:].all()


def test_mosaic() -> None:
    x = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mosaic(x, 1), x)
    for side in (2, 3, 4, 6, 12):
        tiled = mosaic(x, side)
        torch.testing.assert_close(tiled.mean((2, 3)), x.mean((2, 3)))
        assert len(tiled[0, 0].unique()) == 24 * 36 // side**2
        torch.testing.assert_close(mosaic(tiled, side), tiled)
    odd = mosaic(x[..., :22, :33], 8).numpy()
    mirrored = np.pad(x[..., :22, :33].numpy(), ((0, 0), (0, 0), (0, 2), (0, 7)), "reflect")
    cells = mirrored.reshape(2, 3, 3, 8, 5, 8).mean((3, 5)).repeat(8, 2).repeat(8, 3)
    np.testing.assert_allclose(odd, cells[..., :22, :33], rtol=1e-6)
    assert mosaic(x[..., :3, :5], 16).unique().numel() == 6  # cells larger than the picture


def test_what_is_put_into_the_holes() -> None:
    x = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 20, 30)
    masks[0, 4:9, 5:25] = 1
    holes = masks[:, None].expand_as(x) > 0
    fills = {
        "zero": torch.zeros_like(x),
        "mean": x.mean((2, 3), keepdim=True).expand_as(x),
        "mosaic": mosaic(x, 5),
    }
    for fill, hint in fills.items():
        found = excise(x, masks, fill, 5)  # type: ignore[arg-type]
        assert torch.equal(found[holes], hint[holes])
        assert torch.equal(found[~holes], x[~holes])


class Excision(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        masks = (pictures.mean(1) > 0.5).float()
        fills = [excise(pictures, masks, fill, 7) for fill in ("zero", "mean", "mosaic")]  # type: ignore[arg-type]
        return torch.stack(fills, dim=1)


def test_filling_exports() -> None:
    graph = export(Excision(), 3, (20, 31), ["filled"])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = torch.rand(3, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {"pixels": x.numpy()})
    np.testing.assert_allclose(found, Excision()(x).numpy(), rtol=0, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="no masking rule 'median': choose among tukey, sigma1"):
        Masking("median")
    with pytest.raises(UsageError, match="can't grow by -1 pixels"):
        Masking(dilation=-1)
    with pytest.raises(UsageError, match="cells of 0 pixels"):
        mosaic(torch.rand(1, 1, 8, 8), 0)
    with pytest.raises(UsageError, match="no fill 'blur': choose among zero, mean, mosaic"):
        excise(torch.rand(1, 1, 8, 8), torch.ones(1, 8, 8), "blur")  # type: ignore[arg-type]
