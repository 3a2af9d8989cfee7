"""Maps of several stages as one, and by how much a picture looks like each of several products."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.backbone import Backbone
from blemish.nets.distillation import Moments, Stages, stage_taps
from blemish.nets.saliency import shrunk, size_of
from blemish.nets.uniad import deviations, mixed

CELL = 16
"""Pixels a side that a cell of the common grid stands for."""
TEMPERATURE = 0.1
"""Of the softmax over cosines: a product that is 0.23 more like the picture than another gets ten times its
share. Lower ones would round every share to 0 or 1, and leave nothing to tell an unknown product by."""


def grid_of(size: tuple[int, int], cell: int = CELL) -> tuple[int, int]:
    return -(-size[0] // cell), -(-size[1] // cell)


class Stacked(nn.Module):
    """Pictures (N, C, H, W) in 0..1 → (N, channels, *grid): what several stages see, side by side.

    Without `taps` the last map of each stride up to that of the grid, as published: coarser ones have most of
    the channels, and would hide what small defects change in the others. Of backbones that have but one
    stride, or none so fine, their own choice.
    """

    def __init__(self, backbone: Backbone, taps: Sequence[str], grid: tuple[int, int]) -> None:
        super().__init__()
        strides = {tap.name: tap.stride for tap in backbone.taps}
        last = stage_taps(backbone) if len({*strides.values()}) > 1 else ()
        own = tuple(tap for tap in last if strides[tap] <= CELL) or backbone.default_taps
        self.stages = Stages(backbone, tuple(taps) or own)
        self.grid = grid

    @property
    def backbone(self) -> Backbone:
        return self.stages.backbone

    @property
    def taps(self) -> tuple[str, ...]:
        return self.stages.taps

    def forward(self, pictures: Tensor) -> Tensor:
        return self.joined(self.stages(pictures))

    def joined(self, stages: Sequence[Tensor]) -> Tensor:
        return torch.cat([resized(stage, self.grid) for stage in stages], dim=1)

    def with_patches(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The maps, and as many patches of them, each with what is around it in its own stage."""
        stages = self.stages(pictures)
        return self.joined(stages), self.joined([around(stage) for stage in stages])

    def widths(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Of the stages, of pictures of so many channels."""
        return tuple(shape[0] for shape in self.stages.shapes(channels, size))


def around(stage: Tensor) -> Tensor:
    """3×3 means. The zeros beyond the border are counted in, or it would outshine every defect."""
    return F.avg_pool2d(stage, 3, 1, 1)


def resized(stage: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over the cells of a coarser grid: a few points of each, as published, miss small defects."""
    sides = size_of(stage)
    if sides == grid:
        return stage
    if all(side >= cells for side, cells in zip(sides, grid, strict=True)):
        return shrunk(stage, grid)
    return F.interpolate(stage, size=grid, mode="bilinear", align_corners=False)


class Likeness(nn.Module):
    """Maps (N, channels, h, w) → (N, classes): the share by which each looks like each class.

    A softmax over the cosines of a map's mean vector with those of the classes, all seen from the middle of
    the classes and in the deviations of their vectors.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels), False)
        self.scale = nn.Parameter(torch.ones(channels), False)
        self.directions = nn.Parameter(torch.zeros(classes, channels), False)

    @classmethod
    def of(cls, usual: Sequence[Moments | None]) -> "Likeness":
        """From the moments of each class; a picture is neither like nor unlike one that has none."""
        mean, covariance = mixed([each for each in usual if each is not None])
        self = cls(len(mean), len(usual))
        scale = deviations(covariance)
        away = [torch.zeros_like(mean) if each is None else (each.mean - mean) / scale for each in usual]
        found = mean, scale, F.normalize(torch.stack(away), dim=1)
        for own, value in zip(self.parameters(), found, strict=True):
            own.data.copy_(value)
        return self

    def forward(self, maps: Tensor) -> Tensor:
        looks = F.normalize((maps.mean((2, 3)) - self.mean) / self.scale, dim=1)
        return (looks @ self.directions.T / TEMPERATURE).softmax(1)
