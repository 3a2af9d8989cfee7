import math

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import correlate, gaussian_filter
from torch import Tensor, nn

from blemish.nets.reconstruction import (
    RING,
    Loss,
    Riad,
    Smooth,
    disjoint_masks,
    image_score,
    inpainted,
    msgms_map,
    random_squares,
    restricted,
    ssim_error,
)
from blemish.nets.runtime import export
from blemish.nets.unet import UNet
from tests.nets.zoo import shaken

SMALL, LARGE = (48, 40), (256, 264)


def pair(size: tuple[int, int], count: int = 2) -> tuple[Tensor, Tensor]:
    """A picture with soft and hard edges, and one that is the same but for noise and a patch."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.linspace(0, 1, side) for side in size)
    waves = torch.sin(9 * rows[:, None] + torch.arange(1, 4)[:, None, None] * 7 * columns).sign()
    x = (0.5 + 0.2 * waves + 0.2 * rows[:, None] * columns).repeat(count, 1, 1, 1)
    rebuilt = x + 0.05 * torch.randn(x.shape, generator=generator)
    rebuilt[:, :, 5:15, 8:20] = 0.3
    return x, rebuilt.clamp(0, 1)


def ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of one channel, from the definition."""

    def mean(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(z, 1.5, radius=5, mode="mirror")

    vx, vy = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    both = mean(x * y) - mean(x) * mean(y)
    lightness = (2 * mean(x) * mean(y) + 0.01**2) / (mean(x) ** 2 + mean(y) ** 2 + 0.01**2)
    return lightness * (2 * both + 0.03**2) / (vx + vy + 0.03**2)


def gms(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    across = np.array([[1, 0, -1]] * 3) / 3

    def steepness(z: NDArray[np.float64]) -> NDArray[np.float64]:
        slopes = (correlate(z, kernel, mode="nearest") for kernel in (across, across.T))
        return np.sqrt(sum(slope**2 for slope in slopes) + 1e-12)

    a, b = steepness(x), steepness(y)
    return (2 * a * b + 0.0026) / (a * a + b * b + 0.0026)


def msgms(x: NDArray[np.float64], y: NDArray[np.float64], scales: int) -> NDArray[np.float64]:
    high, wide = x.shape
    maps = []
    for _ in range(scales):
        maps.append(cv2.resize(gms(x, y), (wide, high), interpolation=cv2.INTER_LINEAR))
        rows, columns = (side // 2 for side in x.shape)
        x, y = (z[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3)) for z in (x, y))
    return sum(maps) / scales


def test_ssim_is_that_of_the_definition() -> None:
    x, rebuilt = (each.double() for each in pair(SMALL))
    expected = [
        [(1 - ssim(one, other)) / 2 for one, other in zip(*channels, strict=True)]
        for channels in zip(x.numpy(), rebuilt.numpy(), strict=True)
    ]
    assert np.max(expected) > 0.3
    np.testing.assert_allclose(ssim_error(x, rebuilt), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ssim_error(x.float(), rebuilt.float()), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("size", "scales"), [(SMALL, 3), (LARGE, 4), ((248, 264), 3)])
def test_error_map_is_that_of_the_definition(size: tuple[int, int], scales: int) -> None:
    x, rebuilt = pair(size, 1)
    channels = zip(x[0].double().numpy(), rebuilt[0].double().numpy(), strict=True)
    expected = 1 - np.mean([msgms(one, other, scales) for one, other in channels], axis=0)
    assert expected.max() > 0.5
    np.testing.assert_allclose(msgms_map(x, rebuilt)[0], expected, rtol=0, atol=1e-5)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_equal_pictures_have_no_error(high: int, wide: int, channels: int) -> None:
    x = torch.rand(1, channels, high, wide, generator=torch.Generator().manual_seed(high))
    assert msgms_map(x, x).shape == (1, high, wide)
    assert msgms_map(x, x).abs().max() == 0
    assert Loss()(x, x.clone()) == 0
    assert Loss(half=True)(x.repeat(1, 1, 2, 2), x.repeat(1, 1, 2, 2)) == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_loss_is_the_sum_of_its_parts(size: tuple[int, int]) -> None:
    x, rebuilt = pair(size)
    squares, similarity = (x - rebuilt).square().mean(), ssim_error(x, rebuilt).mean()
    assert Loss("l2")(x, rebuilt) == pytest.approx(float(squares))
    assert Loss("l2+ssim")(x, rebuilt) == pytest.approx(float(squares + similarity))
    edges = msgms_map(x, rebuilt).mean()  # enlarged, where the loss is not
    assert Loss()(x, rebuilt) == pytest.approx(float(squares + similarity + edges), rel=1e-5)
    smaller = (torch.nn.functional.avg_pool2d(each, 2) for each in (x, rebuilt))
    assert Loss("l2+ssim", half=True)(x, rebuilt) == pytest.approx(
        float(squares + ssim_error(*smaller).mean())
    )


def test_sixteen_bits_around_it_leave_the_loss_as_it_is() -> None:
    x, rebuilt = pair(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert Loss()(x, rebuilt) == Loss()(x, rebuilt.double())
        found = Loss()(x, rebuilt)
    assert found == Loss()(x, rebuilt)


@pytest.mark.parametrize("parts", ["l2", "l2+ssim", "l2+ssim+msgms"])
def test_inside_and_outside_make_up_the_whole(parts: str) -> None:
    x, rebuilt = pair(LARGE)
    mask = torch.zeros(2, 1, *LARGE)
    mask[:, :, 0:24, 8:48] = 1
    share = float(mask.mean())
    rebuilt = torch.where(mask > 0, rebuilt, x)
    inside, outside = Loss(parts).inside_and_outside(x, rebuilt, mask)
    assert inside > 10 * outside
    assert share * inside + (1 - share) * outside == pytest.approx(float(Loss(parts)(x, rebuilt)), rel=1e-4)
    assert Loss(parts).inside_and_outside(x, rebuilt, 0 * mask)[0] == 0


@pytest.mark.parametrize("size", [(64, 64), (128, 32)])
def test_smoothing_is_a_gaussian_of_the_pictures_scale(size: tuple[int, int]) -> None:
    error = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(each, 1.0, radius=4, mode="mirror") for each in error.numpy()]
    np.testing.assert_allclose(Smooth(size, 4.0)(error), expected, rtol=0, atol=1e-6)
    assert Smooth(size, 0.0)(error) is error


def test_image_scores() -> None:
    error = torch.rand(3, 60, 50, generator=torch.Generator().manual_seed(0))
    ordered = error.flatten(1).sort(descending=True).values
    assert torch.equal(image_score(error, "max"), ordered[:, 0])
    torch.testing.assert_close(image_score(error, "top"), ordered[:, :3].mean(1))


def test_the_score_may_be_held_to_the_mask_and_a_ring_around_it() -> None:
    size = (96, 80)
    error, mask = torch.ones(1, *size), torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 40:50, 30:45] = True
    assert torch.equal(restricted(error, mask, "all"), error)
    assert torch.equal(restricted(error, mask, "mask"), mask.float())
    wide = round(RING * math.sqrt(96 * 80) / 256)
    ring = torch.zeros(1, *size)
    ring[:, 40 - wide : 50 + wide, 30 - wide : 45 + wide] = 1
    assert torch.equal(restricted(error, mask, "mask+ring"), ring)


@given(
    st.integers(1, 50), st.integers(1, 50), st.integers(1, 20), st.integers(1, 5), st.integers(0, 2**32 - 1)
)
@settings(deadline=None)
def test_disjoint_masks_share_out_the_picture(high: int, wide: int, cell: int, count: int, seed: int) -> None:
    masks = disjoint_masks((high, wide), cell, count, seed=[seed, 1, 2])
    assert masks.shape == (count, high, wide)
    assert (masks.sum(0) == 1).all()
    corners = masks[:, ::cell, ::cell]
    assert np.array_equal(corners.repeat(cell, 1).repeat(cell, 2)[:, :high, :wide], masks)
    cells = corners.sum((1, 2))
    assert cells.max() - cells.min() <= 1
    assert np.array_equal(masks, disjoint_masks((high, wide), cell, count, seed=[seed, 1, 2]))


def test_disjoint_masks_are_drawn_anew() -> None:
    drawn = [disjoint_masks((32, 32), 4, seed=[0, epoch, index]) for epoch in range(3) for index in range(3)]
    assert len({masks.tobytes() for masks in drawn}) == 9
    # Every cell is hidden in each of the passes sooner or later.
    often = np.mean([disjoint_masks((32, 32), 4, seed=number) for number in range(300)], axis=0)
    assert often.min() > 0.2
    assert often.max() < 0.5


class Brighter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("each_its_own", [False, True])
def test_no_pixel_is_rebuilt_from_itself(each_its_own: bool) -> None:
    """A network that only copies finds nothing to copy: all that is left is what it adds, once everywhere."""
    x, _ = pair(SMALL, 4)
    masks = [disjoint_masks(SMALL, 8, seed=number) for number in range(4 if each_its_own else 1)]
    hidden = torch.from_numpy(np.stack(masks))[:, :, None].float()
    rebuilt = inpainted(Brighter(), x, hidden if each_its_own else hidden[0])
    assert torch.equal(rebuilt, torch.ones_like(x))


@torch.no_grad()
def test_riad_rebuilds_once_for_each_cell_size_and_exports() -> None:
    net = UNet((4, 6))
    shaken(net)
    riad, x = Riad([net], SMALL, seed=3).eval(), pair(SMALL)[0]
    expected = []
    for cell in (2, 4, 8, 16):
        rebuilt = torch.zeros_like(x)
        for mask in torch.from_numpy(disjoint_masks(SMALL, cell, seed=[3, cell])):
            rebuilt[:, :, mask] = net(x * ~mask)[:, :, mask]
        expected.append(rebuilt)
    assert expected[0].std() > 0.01
    torch.testing.assert_close(riad(x), expected, rtol=0, atol=1e-6)
    session = onnxruntime.InferenceSession(
        export(riad, 3, SMALL, ["by_2", "by_4", "by_8", "by_16"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 2):
        for found, every in zip(session.run(None, {"pixels": x[:count].numpy()}), expected, strict=True):
            np.testing.assert_allclose(found, every[:count].detach(), rtol=0, atol=1e-5)


class Comparison(nn.Module):
    """What a scorer makes of pictures and reconstructions, here given as six channels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.smooth = Smooth(size, 3.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        error = self.smooth(msgms_map(x[:, :3], x[:, 3:]))
        return image_score(restricted(error, x[:, 0] > 0.5, "mask+ring"), "top"), error


@pytest.mark.parametrize("size", [SMALL, LARGE, (57, 43)])
def test_the_comparison_exports(size: tuple[int, int]) -> None:
    session = onnxruntime.InferenceSession(
        export(Comparison(size), 6, size, ["score", "map"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 2):
        x = torch.cat(pair(size, count), 1)
        for found, expected in zip(
            session.run(None, {"pixels": x.numpy()}), Comparison(size)(x), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def weave(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Two crossing waves of fixed length at random phases."""
    places = torch.arange(side) * 2 * math.pi / 8
    phases = 2 * math.pi * torch.rand(2, count, 1, generator=generator)
    down, across = torch.sin(places + phases)
    return (0.5 + 0.2 * down[:, None, :, None] + 0.2 * across[:, None, None, :]).repeat(1, 3, 1, 1)


def test_training_fills_holes() -> None:
    torch.manual_seed(0)
    net, loss, generator = UNet((8, 16)), Loss(half=True), torch.Generator().manual_seed(0)
    hidden = torch.from_numpy(disjoint_masks((24, 24), 4, seed=0))[:1, None].float()
    held = weave(16, 24, generator)

    def in_holes(rebuilt: Tensor) -> float:
        return loss.inside_and_outside(held, rebuilt, hidden.expand(16, -1, -1, -1))[0]

    @torch.no_grad()
    def now() -> float:
        return in_holes(net.eval()(held * (1 - hidden)))

    flat, before, optimiser = (
        in_holes(torch.full_like(held, 0.5)),
        now(),
        torch.optim.Adam(net.parameters(), 3e-3),
    )
    net.train()
    for _ in range(200):
        x = weave(4, 24, generator)
        optimiser.zero_grad()
        loss(x, net(x * (1 - hidden))).backward()
        optimiser.step()
    assert now() < before / 2
    assert now() < flat / 10  # than grey holes


def test_random_squares_have_the_share_that_is_asked_for() -> None:
    for share in (0.0, 0.2, 0.5, 1.0):
        mask = random_squares((256, 192), share, np.random.default_rng(0))
        assert mask.mean() == pytest.approx(share, abs=0.02)
