import numpy as np
import pytest
import torch
from torch import nn

from blemish.nets.runtime import Compiled
from blemish.nets.sfnet import SFNet, Warp

STAGES = {64: (64, 128, 256, 512), 256: (256, 512, 1024, 2048)}


def maps(channels: tuple[int, ...], size: tuple[int, int] = (64, 96), count: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sides = [(size[0] >> stage, size[1] >> stage) for stage in range(2, 2 + len(channels))]
    return [torch.randn(count, width, *side) for width, side in zip(channels, sides, strict=True)]


@pytest.mark.parametrize(("width", "count"), [(64, 328_519), (256, 5_147_911)])
def test_it_has_the_published_number_of_parameters(width: int, count: int) -> None:
    head = SFNet(STAGES[width], width)
    assert sum(each.numel() for each in head.parameters()) == count


def test_logits_have_the_size_of_the_picture() -> None:
    assert SFNet((8, 12, 16), 8)(maps((8, 12, 16)), (64, 96)).shape == (2, 1, 64, 96)


def unmoved(warp: Warp) -> Warp:
    nn.init.zeros_(warp.flow.weight)
    nn.init.zeros_(warp.flow.bias)
    return warp


def test_without_flow_a_map_moves_by_a_fraction_of_a_cell_only() -> None:
    fine, coarse = torch.zeros(1, 3, 16, 20), torch.rand(1, 3, 8, 10)
    torch.testing.assert_close(unmoved(Warp(3, align_corners=True))(fine, coarse), coarse)
    # Seen from corner to corner, column x of 10 stands at 10 · x / 9 − ½.
    ramp = torch.arange(10.0).expand(1, 3, 8, 10)
    moved = unmoved(Warp(3))(fine, ramp)[0, 0, 4]
    expected = torch.arange(10.0) * 10 / 9 - 0.5
    torch.testing.assert_close(moved[1:-1], expected[1:-1])
    assert moved[0] == 0
    assert moved[-1] < 9  # half of what the last samples lies outside, where all is 0


def test_flow_points_where_to_look_in_cells_of_the_coarse_map() -> None:
    warp = unmoved(Warp(1, align_corners=True))
    with torch.no_grad():
        warp.flow.bias.copy_(torch.tensor([2.0, 1.0]))
    coarse = torch.rand(1, 1, 6, 7)
    moved = warp(torch.zeros(1, 1, 12, 14), coarse)
    torch.testing.assert_close(moved[..., :5, :5], coarse[..., 1:, 2:])


def test_it_exports_with_its_grid_sampling() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = SFNet((3, 3, 3), 8).eval()

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            stages = [nn.functional.avg_pool2d(pictures, 4 << stage) for stage in range(3)]
            return self.head(stages, pictures.shape[-2:])

    whole, pictures = Whole(), np.random.default_rng(0).uniform(size=(3, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        expected = whole(torch.from_numpy(pictures))
    found = Compiled(whole, 3, (64, 96), torch.device("cpu"))(pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
