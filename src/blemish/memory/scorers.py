"""How far a patch lies from the remembered rows: the nearest, and what REB compares that with.

At the end one for whole images, which looks at no rows.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.memory.neighbours import neighbours


class Measure(nn.Module):
    """Patch vectors (N, cells, width) → scores (N, cells), and for each the number of its nearest row.

    `count` is the number of neighbours, cut to what the rows allow: each has all the others.
    """

    name: ClassVar[str]
    fewest: ClassVar[int] = 1
    """With fewer neighbours than this the measure means nothing."""
    jumps: ClassVar[bool] = False
    """Whether the score of a patch jumps where two rows are equally far from it."""

    def __init__(self, rows: Tensor, count: int) -> None:
        super().__init__()
        self.count = min(count, len(rows) - 1)
        if self.count < self.fewest:
            raise UsageError(
                f"The measure {self.name} needs {self.fewest} neighbours or more, and {count} of a bank of "
                f"{len(rows)} rows leave {self.count}: ask for more neighbours or give more good images."
            )
        # Repeated rows lie 0 apart, and must not make what lies near them infinitely far. The distance that
        # stands in for 0 is a millionth of the rows' own spread, for vectors have no natural unit.
        self.floor = 1e-6 * float(rows.var(0, correction=0).sum()) ** 0.5 + 1e-12
        self.rows: Tensor
        self.search: Tensor
        self.register_buffer("rows", rows.contiguous())
        # A constant 1 at the end of every query brings in the rows' norms: one product ranks all rows.
        norms = rows.square().sum(1, keepdim=True)
        self.register_buffer("search", torch.cat((-2 * rows, norms), 1).T.contiguous(), persistent=False)

    def product(self, vectors: Tensor) -> Tensor:
        """Squared distances, each cell's less one and the same number."""
        return torch.cat((vectors, torch.ones_like(vectors[..., :1])), -1) @ self.search

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        found = self.product(vectors).topk(self.count, largest=False).indices
        # Taken again from the difference: the product form loses the digits of near-duplicates.
        exact = (vectors[..., None, :] - self.rows[found]).square().sum(-1)
        distances, order = exact.topk(self.count, largest=False)
        numbers = found.gather(-1, order)
        return self.score(distances, numbers), numbers[..., 0]

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        """From squared distances to the neighbours, nearest first, and their numbers (N, cells, count)."""
        raise NotImplementedError


class Nearest(Measure):
    """Distance to the nearest row."""

    name = "nearest"
    fewest = 0

    def __init__(self, rows: Tensor, *, squared: bool = False) -> None:
        super().__init__(rows, 1)
        self.squared = squared

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        nearest = self.product(vectors).argmin(-1)
        squares = (vectors - self.rows[nearest]).square().sum(-1)
        return squares if self.squared else squares.sqrt(), nearest


class MeanDistance(Measure):
    name = "knn"

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        return distances.mean(-1)


class KthDistance(Measure):
    name = "kthnn"

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        return distances[..., -1]


class KDistanceRatio(Measure):
    """REB's "LOF" as it is coded: it reaches by the point's own k-distance, not by its neighbours'."""

    name = "kdist_ratio"
    fewest = 2  # a row counts itself as its first
    jumps = True

    def __init__(self, rows: Tensor, count: int) -> None:
        super().__init__(rows, count)
        self.density: Tensor
        within, _ = neighbours(rows, rows, self.count)
        self.register_buffer("density", 1 / within[:, -1].clamp(min=self.floor**2), persistent=False)

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        return self.density[numbers].mean(-1) * distances[..., -1]


class LocalOutlierFactor(Measure):
    """Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000, for new points."""

    name = "lof"
    jumps = True

    def __init__(self, rows: Tensor, count: int) -> None:
        super().__init__(rows, count)
        self.far: Tensor
        self.density: Tensor
        distances, numbers = neighbours(rows, rows, self.count + 1)
        own = numbers == torch.arange(len(rows))[:, None]
        distances, order = distances.masked_fill(own, torch.inf).topk(self.count, largest=False)
        self.register_buffer("far", distances[:, -1].sqrt(), persistent=False)
        self.register_buffer("density", 1 / self.reach(distances, numbers.gather(1, order)), persistent=False)

    def reach(self, distances: Tensor, numbers: Tensor) -> Tensor:
        # The constant is scikit-learn's: rows repeated more often than `count` reach nowhere.
        return torch.maximum(distances.sqrt(), self.far[numbers]).mean(-1) + 1e-10

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        return self.density[numbers].mean(-1) * self.reach(distances, numbers)


class LocalDistanceOutlierFactor(Measure):
    """Zhang, Hutter and Jin, "A New Local Distance-Based Outlier Detection Approach", PAKDD 2009."""

    name = "ldof"
    fewest = 2
    jumps = True

    def score(self, distances: Tensor, numbers: Tensor) -> Tensor:
        group = self.rows[numbers]
        # Seen from their own mean, neighbours are no longer than they lie apart: the product form will do.
        group = group - group.mean(-2, keepdim=True)
        norms = group.square().sum(-1)
        apart = norms[..., None] + norms[..., None, :] - 2 * group @ group.transpose(-1, -2)
        pairs = apart.clamp(min=0).sqrt().triu(1)
        between = pairs.sum((-2, -1)) * 2 / (self.count * (self.count - 1))
        return distances.sqrt().mean(-1) / between.clamp(min=self.floor)


MEASURES: dict[str, type[Measure]] = {
    measure.name: measure
    for measure in (MeanDistance, KthDistance, KDistanceRatio, LocalOutlierFactor, LocalDistanceOutlierFactor)
}


def ledoit_wolf(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and the covariance drawn towards a sphere by as much as its own noise calls for.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
    """
    mean = rows.mean(0)
    centred = rows - mean
    sample = centred.T @ centred / len(rows)
    sphere = torch.eye(len(mean), dtype=rows.dtype) * sample.diagonal().mean()
    noise = (centred.square().sum(1).square().mean() - sample.square().sum()) / len(rows)
    share = (noise / (sample - sphere).square().sum().clamp(min=1e-300)).clamp(0, 1)
    return mean, share * sphere + (1 - share) * sample


class GlobalGaussian(nn.Module):
    """Pooled vectors of whole images (N, channels) → Mahalanobis distances (N,) of their directions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))

    @classmethod
    def of(cls, pooled: Tensor) -> "GlobalGaussian":
        mean, covariance = ledoit_wolf(F.normalize(pooled.double()))
        # Good images that are all alike leave no variance at all.
        identity = torch.eye(len(mean), dtype=torch.double)
        lower = torch.linalg.cholesky(covariance + 1e-12 * identity)
        self = cls(len(mean))
        self.mean = mean.float()
        self.whitening = torch.linalg.solve_triangular(lower, identity, upper=False).T.float().contiguous()
        return self

    def forward(self, pooled: Tensor) -> Tensor:
        return ((F.normalize(pooled) - self.mean) @ self.whitening).square().sum(-1).sqrt()
