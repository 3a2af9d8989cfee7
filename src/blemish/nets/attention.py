"""EAR's attention: a classifier of digits or drawn glyphs, and where it looks on a picture of any size.

Paper: Park et al., "Excision and Recovery", arXiv 2310.04010 v1; the layers are those of the first author's
public code for MNIST. The attention answers to the ends, bends and crossings of strokes, as scratches have.
Ours: few epochs, several scales, both polarities, mirrored borders, a floor for the range of a flat picture,
and levelling.
Weights: `strokes` (Apache-2.0, as this package) learned from glyphs drawn by `strokes.py`, `mnist` (CC BY-SA
3.0) from MNIST; their metadata tells how tools/train_attention.py made them.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.saliency import blurred, framed, grey, shares, shrunk, size_of, spread, stretched
from blemish.nets.weights import read_state

CELL = 4
BORDER = 6
"""Pixels beyond its own that a cell sees."""
STROKE = 4.0
"""Deviation of the local mean that is taken off: the width of a stroke."""
KEPT = 64
POLARITIES = ("bright", "dark", "both")


class Trunk(nn.Module):
    """Pictures (N, 1, H, W) in 0..1 → features and attention logits, a cell for each 4×4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 32, 64, KEPT)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers[:4], nn.MaxPool2d(2), *layers[4:], nn.MaxPool2d(2))
        self.logits = nn.Conv2d(KEPT, 1, 1)

    def forward(self, light: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(light)
        return features, self.logits(features)


class Classifier(nn.Module):
    """Of pictures of 28×28; what follows the trunk is thrown away after training."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.widen = nn.Sequential(nn.Conv2d(KEPT, 512, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, light: Tensor) -> Tensor:
        features, logits = self.trunk(light)
        return self.head(self.widen(features * over_places(logits)).mean((2, 3)))


def over_places(logits: Tensor) -> Tensor:
    return logits.flatten(1).softmax(1).view_as(logits)


class Attention(nn.Module):
    """Pictures (N, C, H, W) in 0..1 → maps (N, H, W) that sum to 1.

    `polarity`: which strokes, bright or dark ones. `scales`: at which reductions of the picture to look; the
    net finds strokes of 2 to 6 pixels. The maps of all scales are averaged, for logits of different pictures
    have no common unit. `levelled`: take off the local mean first, for to the net whatever is bright is ink,
    and without that a lamp's spot outshines every scratch.
    """

    def __init__(
        self,
        weights: str | Path = "strokes",
        *,
        polarity: Literal["bright", "dark", "both"] = "both",
        scales: Sequence[float] = (1.0,),
        levelled: bool = False,
    ) -> None:
        super().__init__()
        if polarity not in POLARITIES:
            raise UsageError(f"There is no polarity {polarity!r}: choose among {', '.join(POLARITIES)}.")
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise UsageError(f"The scales {tuple(scales)} can't be looked at: give some above 0 and up to 1.")
        self.polarity, self.scales, self.levelled = polarity, tuple(scales), levelled
        self.trunk, self.provenance = read_trunk(weights)
        for part in self.trunk.features:
            if isinstance(part, nn.Conv2d):
                part.padding = (0, 0)  # mirrored borders take the place of zeros

    def forward(self, pictures: Tensor) -> Tensor:
        light = grey(pictures)
        if self.levelled:
            light = light - blurred(light, STROKE)
        signs = {"bright": [light], "dark": [-light], "both": [light, -light]}[self.polarity]
        views = torch.stack([stretched(sign) for sign in signs])
        maps = torch.stack([self.at(views.flatten(0, 1), scale) for scale in self.scales]).mean(0)
        return shares(maps.reshape(len(signs), -1, *maps.shape[1:]).amax(0))

    def at(self, views: Tensor, scale: float) -> Tensor:
        full = size_of(views)
        height, width = (max(round(side * scale), 1) for side in full)
        small = shrunk(views, (height, width)) if (height, width) != full else views
        rows, columns = -(-height // CELL), -(-width // CELL)
        below, beside = rows * CELL - height, columns * CELL - width
        _, logits = self.trunk(framed(small, (BORDER, BORDER + below), (BORDER, BORDER + beside)))
        maps = spread(over_places(logits)[:, 0], (rows * CELL, columns * CELL))[:, :height, :width]
        return shares(maps if (height, width) == full else spread(maps, full))


def read_trunk(weights: str | Path) -> tuple[Trunk, dict[str, str]]:
    """The trunk in eval mode, and what its file tells of itself."""
    if isinstance(weights, str):
        files = sorted(Path(__file__).parent.glob("attention-*.safetensors"))
        shipped = {file.stem.removeprefix("attention-"): file for file in files}
        if weights not in shipped:
            raise UsageError(
                f"This package has no attention weights {weights!r}: choose among {', '.join(shipped)}, or "
                "make them with tools/train_attention.py and give the path of the file."
            )
        weights = shipped[weights]
    trunk, state = Trunk(), read_state(weights)
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"The weights file {weights} is not one of EAR's attention: make one with "
            "tools/train_attention.py."
        ) from error
    told: dict[str, str] = {}
    if weights.suffix == ".safetensors":
        with safe_open(weights, "pt") as file:
            told = file.metadata() or {}
    return trunk.eval().requires_grad_(False), told
