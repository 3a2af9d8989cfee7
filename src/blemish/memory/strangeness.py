"""How far the maps of a picture are from all that good pictures have, whatever the number of those."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.memory.coreset import k_centre
from blemish.memory.patches import Rotation
from blemish.memory.scorers import Nearest
from blemish.memory.vectors import Vectors

WHITENED = 0.5
NEAR = 0.05
"""Distances of less are rounding, in the spread of all good vectors; so are deviations of less."""


def means(maps: Tensor) -> Tensor:
    """3×3 means of a stage's maps, as one vector a place."""
    return F.avg_pool2d(maps, 3, 1, 1).flatten(2).transpose(1, 2)


class Remembered(nn.Module):
    """Maps of a stage → (N, 1, H, W), the distance of each place to the nearest remembered vector."""

    def __init__(self, turn: Rotation, rows: Tensor) -> None:
        super().__init__()
        self.turn = turn
        self.nearest = Nearest(rows, squared=True)

    @classmethod
    def of(cls, vectors: Tensor, count: int) -> Self:
        rounding = NEAR**2 * vectors.square().mean() * torch.eye(vectors.shape[1])
        covariance = torch.cov(vectors.T, correction=min(len(vectors) - 1, 1))
        turn = Rotation.of(vectors.mean(0), covariance + rounding, power=WHITENED)
        turned = turn(vectors)
        return cls(turn, turned[k_centre(Vectors.of([turned], turned.nbytes), count)])

    def forward(self, maps: Tensor) -> Tensor:
        squares, _ = self.nearest(self.turn(means(maps)))
        return (squares + NEAR**2).sqrt().reshape(-1, 1, *maps.shape[2:])


class Strangeness(nn.Module):
    """Maps of some stages → (N, H, W): their distances, weighted alike and as large as was asked for."""

    def __init__(self, stages: Sequence[int], remembered: Sequence[Remembered]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.remembered = nn.ModuleList(remembered)
        self.weights: Tensor
        self.register_buffer("weights", torch.ones(len(self.stages)))
        self.usual: Tensor
        self.register_buffer("usual", torch.zeros(()))

    def distances(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        found = [known(maps[stage]) for stage, known in zip(self.stages, self.remembered, strict=True)]
        return torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in found], dim=1)

    def weighed(self, distances: Tensor) -> Tensor:
        return (self.weights[:, None, None] * distances).sum(1) - self.usual

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        return self.weighed(self.distances(maps, size))

    def settle(self, distances: Tensor, deviation: float) -> None:
        """From distances in good pictures: a mean of 0 there, and this deviation."""
        self.weights = 1 / distances.std((0, 2, 3)).clamp(min=NEAR)
        self.usual = torch.zeros(())
        together = self.weighed(distances)
        self.weights = self.weights * deviation / together.std().clamp(min=NEAR)
        self.usual = self.weighed(distances).mean()
