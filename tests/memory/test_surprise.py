"""What is seen of a picture, against what its reconstruction let expect."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from blemish.memory.patches import PatchVectors
from blemish.memory.surprise import LEAST, ROUNDING, Surprise
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


def settled(patches: PatchVectors, pictures: Tensor, rebuilt: Tensor) -> Surprise:
    surprise = Surprise(patches, (SIDE, SIDE))
    with torch.no_grad():
        surprise.settle(surprise.seen(pictures, rebuilt))
    return surprise


def test_it_is_the_distance_of_a_conditional_gaussian(patches: PatchVectors) -> None:
    pictures = good(6)
    surprise = settled(patches, pictures, blurred(pictures))
    with torch.no_grad():
        seen = surprise.seen(pictures, blurred(pictures)).flatten(0, 1).double().numpy()
        new = surprise.seen(good(1, 5), blurred(good(1, 6)))[0].double().numpy()
        bare = torch.tensor(new).float() @ surprise.matrix + surprise.bias
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
        usual, strange = surprise(clean, blurred(clean)), surprise(marked, blurred(clean))
        known = settled(patches, good(16), good(16))(clean, blurred(clean))
    assert usual.shape == (2, SIDE, SIDE)
    assert 0.5 < float(usual.mean()) < 2.5, "in the deviations of good pictures"
    assert float(strange[:, 20:30, 20:30].mean()) > 3 * float(usual.max())
    assert float(known.mean()) > 2 * float(usual.mean()), "who never lost anything is surprised by a blur"


def test_equal_pictures_leave_finite_distances(patches: PatchVectors) -> None:
    flat = torch.full((3, 3, SIDE, SIDE), 0.4)
    with torch.no_grad():
        found = settled(patches, flat, flat)(flat, flat)
    assert torch.isfinite(found).all()


class Asked(nn.Module):
    def __init__(self, surprise: Surprise) -> None:
        super().__init__()
        self.surprise = surprise

    def forward(self, pictures: Tensor) -> Tensor:
        return self.surprise(pictures, blurred(pictures))


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
