"""A few hundred vectors that stand for all that good pictures have, whatever their number.

k-means, with half of its starting points taken by greedy k-centre: so dense regions are drawn finely, and
what good pictures have but rarely keeps a vector of its own.
"""

from typing import Self

import torch
from torch import Tensor, nn

from blemish.memory.coreset import k_centre, squared_distances
from blemish.memory.patches import Rotation
from blemish.memory.vectors import Vectors

ROUNDS = 10
WHITENED = 0.5
BLEND = 0.5
"""How far beyond the nearest one looks, in mean squared distances of good vectors to their nearest."""


class Codes(nn.Module):
    """Vectors (N, cells, width) → what good pictures have that is most like them.

    A blend of remembered vectors, the nearest counting most: no jump where two are equally near.
    """

    def __init__(self, codes: Tensor, turn: Rotation, spread: float) -> None:
        super().__init__()
        turned = turn(codes)
        self.codes: Tensor
        self.register_buffer("codes", codes)
        # Squared distances but for what all codes share, which the softmax takes out. A constant 1 at the end
        # of every vector brings in what does not depend on it: one product ranks all codes.
        search = 2 / spread * turn.matrix @ turned.T
        constant = -turn.mean @ search - turned.square().sum(1) / spread
        self.search: Tensor
        self.register_buffer("search", torch.cat([search, constant[None]]).contiguous())

    @classmethod
    def of(cls, vectors: Tensor, count: int, *, seed: int) -> Self:
        covariance = torch.cov(vectors.T, correction=min(len(vectors) - 1, 1))
        turn = Rotation.of(vectors.mean(0), covariance, power=WHITENED)
        turned = turn(vectors)
        rare = k_centre(Vectors.of([turned], turned.nbytes), count // 2)
        common = torch.randperm(len(turned), generator=torch.Generator().manual_seed(seed))
        start = turned[torch.unique(torch.cat([rare, common[: count - len(rare)]]))]
        _, nearest = settled(turned, start)
        codes = means(vectors, nearest, vectors.new_zeros(len(start), vectors.shape[1]))
        codes = codes[nearest.bincount(minlength=len(codes)) > 0]
        apart = squared_distances(turned, turn(codes)).amin(1).clamp(min=0).mean()
        return cls(codes, turn, max(BLEND * float(apart), 1e-6))

    def forward(self, vectors: Tensor) -> Tensor:
        ones = torch.ones_like(vectors[..., :1])
        return (torch.cat([vectors, ones], -1) @ self.search).softmax(-1) @ self.codes


def settled(vectors: Tensor, centres: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """k-means: where centres come to lie, and of each vector the number of the nearest, as it last was."""
    for _ in range(rounds):
        nearest = squared_distances(vectors, centres).argmin(1)
        centres = means(vectors, nearest, centres)
    return centres, nearest


def means(vectors: Tensor, group: Tensor, otherwise: Tensor) -> Tensor:
    """Of each group of rows; of one without any, what is given."""
    counts = group.bincount(minlength=len(otherwise))[:, None]
    sums = vectors.new_zeros(otherwise.shape).index_add(0, group, vectors)
    return torch.where(counts > 0, sums / counts.clamp(min=1), otherwise)
