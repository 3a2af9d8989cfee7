"""A backbone that learns, below a classifier of painted defects, what a product looks like."""

import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.backbone import Backbone

HIDDEN = (512, 256)


class Lower(nn.Module):
    """Pictures → the map of one block: the part of a backbone that does not learn at the time."""

    def __init__(self, backbone: Backbone, last: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.last = last

    def forward(self, pictures: Tensor) -> Tensor:
        return self.backbone.features(self.backbone.normalised(pictures), frozenset([self.last]))[self.last]


class Proxy(nn.Module):
    """Backbone, mean over the deepest map, and a classifier that is thrown away after training."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.deepest = backbone.taps[-1].name
        widths = (backbone.taps[-1].channels, *HIDDEN)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, HIDDEN, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], classes))

    def forward(self, x: Tensor, after: str | None = None) -> Tensor:
        """Logits of pictures, or of what the block named `after` gives for them."""
        if after is None:
            x = self.backbone.normalised(x)
        if after != self.deepest:
            x = self.backbone.features(x, frozenset([self.deepest]), after)[self.deepest]
        return self.head(x.mean((2, 3)))


def one_against_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Each class has a sigmoid of its own: binary cross-entropy, averaged over pictures and classes."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def early_block(backbone: Backbone, taps: tuple[str, ...]) -> str | None:
    """The last block before those that the taps come from; None where the backbone cannot be cut."""
    names = [block.name for block in backbone.chain()]
    first = min((names.index(tap) for tap in taps if tap in names), default=0)
    return names[first - 1] if first else None


def parts(backbone: Backbone, last: str | None) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules up to and with the block named `last`, and those after it."""
    chain = backbone.chain()
    if last is None:
        return [], [backbone]
    if not chain:  # a foreign network is not cut
        return [backbone], []
    cut = [block.name for block in chain].index(last) + 1
    lower = [module for block in chain[:cut] for module in block.modules]
    return lower, [module for block in chain[cut:] for module in block.modules]
