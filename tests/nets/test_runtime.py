import torch
from torch import nn

from blemish.nets.runtime import Compiled


def test_what_runs_elsewhere_is_a_copy() -> None:
    """What a fit goes on with stays where its other tensors are."""
    module = nn.Conv2d(3, 4, 3)
    compiled = Compiled(module, 3, (8, 8), torch.device("meta"))
    assert compiled.module.weight.device.type == "meta"
    assert module.weight.device.type == "cpu"
