import torch

from blemish.memory.patches import PatchVectors
from blemish.nets import load_backbone


def test_the_finest_tap_gives_the_grid_whatever_the_order() -> None:
    backbone = load_backbone("lite0")
    fine, coarse = (PatchVectors(backbone, taps) for taps in (("s8", "s16"), ("s16", "s8")))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fine(picture), coarse(picture))
    assert coarse.grid((64, 64)) == (8, 8)
    assert coarse.taps == ("s8", "s16")
