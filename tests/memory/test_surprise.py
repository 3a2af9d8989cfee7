"""What is seen of a picture, against what its reconstruction let expect."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blemish.memory.patches import PatchVectors
from blemish.memory.surprise import COPIED, LEAST, NEAR, ROUNDING, Surprise, nearest, settle
from blemish.nets import load_backbone
from blemish.nets.runtime import export

SIDE = 64


@pytest.fixture(scope="module")
def patches() -> PatchVectors:
    return PatchVectors(load_backbone("lite0", weights=None))


def blurred(pictures: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(pictures, 5, 1, 2)


def good(count: int, seed: int = 0) -> Tensor:
    wave = torch.sin(torch.arange(SIDE) / 3)[None, None, None] * 0.2
    noise = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.05
    return (0.5 + wave + noise).clamp(0, 1)


def all_of(pictures: Tensor) -> Tensor:
    return torch.ones_like(pictures[:, 0])


def settled(
    patches: PatchVectors, pictures: Tensor, rebuilt: Tensor, hidden: Tensor | None = None
) -> Surprise:
    surprise = Surprise(patches, (SIDE, SIDE), pictures.shape[1])
    with torch.no_grad():
        seen = surprise.seen(pictures, rebuilt, all_of(pictures) if hidden is None else hidden)
        settle([surprise], seen[:, None])
    return surprise


def test_it_is_the_distance_of_a_conditional_gaussian(patches: PatchVectors) -> None:
    pictures = good(6)
    surprise = settled(patches, pictures, blurred(pictures))
    with torch.no_grad():
        every = surprise.seen(pictures, blurred(pictures), all_of(pictures))
        seen = every[..., :-1].flatten(0, 1).double().numpy()
        new = surprise.seen(good(1, 5), blurred(good(1, 6)), all_of(pictures[:1]))[0, :, :-1].double().numpy()
        bare = torch.tensor(new).float() @ surprise.matrix[0] + surprise.bias[0]
    width = seen.shape[1] // 2
    joint, mean = np.cov(seen.T, ddof=0), seen.mean(0)
    rounding = ROUNDING * (joint.diagonal() + mean**2).mean()

    def floor(part: np.ndarray) -> np.ndarray:
        return (LEAST * part.diagonal().mean() + rounding) * np.eye(width)

    usual, across, others = joint[:width, :width], joint[:width, width:], joint[width:, width:]
    gain = across @ np.linalg.inv(others + floor(others))
    left = usual - gain @ across.T - across @ gain.T + gain @ others @ gain.T
    off = new[:, :width] - mean[:width] - (new[:, width:] - mean[width:]) @ gain.T
    expected = np.einsum("ni,ij,nj->n", off, np.linalg.inv(left + floor(left)), off)
    np.testing.assert_allclose(bare.double().square().sum(1), expected, rtol=1e-2)


def test_what_is_always_lost_surprises_nobody_and_a_mark_does(patches: PatchVectors) -> None:
    surprise, clean = settled(patches, good(16), blurred(good(16))), good(2, 9)
    marked = clean.clone()
    marked[:, :, 20:30, 20:30] = 1
    with torch.no_grad():
        every = all_of(clean)
        usual, strange = (surprise(each, blurred(clean), every) for each in (clean, marked))
        known = settled(patches, good(16), good(16))(clean, blurred(clean), every)
    assert usual.shape == (2, SIDE, SIDE)
    assert 0.5 < float(usual.mean()) < 2.5, "in the deviations of good pictures"
    assert float(strange[:, 20:30, 20:30].mean()) > 3 * float(usual.max())
    assert float(known.mean()) > 2 * float(usual.mean()), "who never lost anything is surprised by a blur"


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 4))
def test_what_is_near_a_remembered_surprise_is_near(seed: int, count: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    off, rows = (torch.randn(*shape, width, generator=rng) for shape in ((2, 5), (count,)))
    off[1, 3] = rows[-1]
    expected = torch.cdist(off.double(), rows.double()).amin(2) / width**0.5
    torch.testing.assert_close(nearest(off, rows), expected.square().add(NEAR**2).sqrt().float())
    assert float(nearest(off, rows)[1, 3]) == pytest.approx(NEAR)


def test_what_surprised_in_good_pictures_is_remembered(patches: PatchVectors) -> None:
    pictures = good(4)
    pictures[0, :, 24:40, 24:40] = 1
    again = pictures[:1]
    surprise = settled(patches, pictures, blurred(pictures))
    with torch.no_grad():
        found = surprise(again, blurred(again), all_of(again))
        surprise.rows = torch.zeros_like(surprise.rows[:, :1])
        unremembered = surprise(again, blurred(again), all_of(again))
    assert float(found[:, 28:36, 28:36].mean()) < 0.5 * float(unremembered[:, 28:36, 28:36].mean())


def filled_in(pictures: Tensor, hidden: Tensor) -> Tensor:
    """As a network would that copies what it sees and has only a blur for what it does not."""
    return torch.where(hidden[:, None] > 0, blurred(blurred(pictures)), pictures)


def test_what_was_hidden_is_judged_by_what_was_hidden(patches: PatchVectors) -> None:
    pictures = good(64)
    left = torch.zeros_like(pictures[:, 0])
    left[:, :, : SIDE // 2] = 1
    surprise = settled(patches, pictures, filled_in(pictures, left), left)
    own, every = (
        settled(patches, pictures, rebuilt, all_of(pictures))
        for rebuilt in (blurred(blurred(pictures)), filled_in(pictures, left))
    )
    clean = good(2, 9)
    with torch.no_grad():
        found = surprise(clean, filled_in(clean, left[:2]), left[:2])
        whole = own(clean, blurred(blurred(clean)), all_of(clean))
        mixed = every(clean, filled_in(clean, left[:2]), all_of(clean))
    inner, outer = slice(8, SIDE // 2 - 16), slice(SIDE // 2 + 16, SIDE - 8)
    torch.testing.assert_close(found[..., inner].mean(), whole[..., inner].mean(), rtol=0.25, atol=0)
    torch.testing.assert_close(found[..., outer].mean(), COPIED * mixed[..., outer].mean(), rtol=0.25, atol=0)


def test_few_hidden_patches_have_no_gaussian_of_their_own(patches: PatchVectors) -> None:
    pictures = good(6)
    corner = torch.zeros_like(pictures[:, 0])
    corner[:, :16, :16] = 1
    surprise = settled(patches, pictures, filled_in(pictures, corner), corner)
    assert torch.equal(surprise.matrix[0], surprise.matrix[1])
    assert torch.equal(surprise.bias[0], surprise.bias[1])


def test_equal_pictures_leave_finite_distances(patches: PatchVectors) -> None:
    flat = torch.full((3, 3, SIDE, SIDE), 0.4)
    with torch.no_grad():
        found = settled(patches, flat, flat)(flat, flat, all_of(flat))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("channels", [1, 5])
def test_pictures_of_any_channels(patches: PatchVectors, channels: int) -> None:
    pictures = good(6)[:, [number % 3 for number in range(channels)]]
    clean = pictures[:1]
    marked = clean.clone()
    marked[:, -1, 20:30, 20:30] = 1
    surprise = settled(patches, pictures, blurred(pictures))
    with torch.no_grad():
        usual, strange = (surprise(each, blurred(clean), all_of(clean)) for each in (clean, marked))
    assert float(strange.max()) > float(usual.max())


class Asked(nn.Module):
    def __init__(self, surprise: Surprise) -> None:
        super().__init__()
        self.surprise = surprise

    def forward(self, pictures: Tensor) -> Tensor:
        return self.surprise(pictures, blurred(pictures), pictures[:, 0].gt(0.5).float())


def test_it_exports(patches: PatchVectors) -> None:
    net = Asked(settled(patches, good(6), blurred(good(6)))).eval()
    session = onnxruntime.InferenceSession(
        export(net, 3, (SIDE, SIDE), ["map"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        pictures = good(count, 3)
        with torch.no_grad():
            expected = net(pictures)
        [found] = session.run(None, {"pixels": pictures.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
