"""How far apart good patches lie around each remembered row: REB's local density, in two forms."""

import torch
from torch import Tensor

from blemish.memory.coreset import squared_distances
from blemish.memory.neighbours import nearest_elsewhere, neighbours
from blemish.memory.vectors import Vectors


def published_density(vectors: Vectors, picked: Tensor, count: int) -> Tensor:
    """LD_1 .. LD_count of each picked row, as prefix means: mean squared distance to its nearest rows of all.

    A row is left out of its own neighbours by its number, never by a distance that ought to be zero.
    """
    count = min(count, len(vectors) - 1)
    rows = vectors.rows(picked)
    best = torch.full((len(rows), count), torch.inf)
    for place, block in vectors:
        apart = squared_distances(rows, block).clamp_(min=0)
        own = ((picked >= place.start) & (picked < place.stop)).nonzero()[:, 0]
        apart[own, picked[own] - place.start] = torch.inf
        best = torch.cat((best, apart), 1).topk(count, largest=False).values
    return best.cumsum(1) / torch.arange(1, count + 1)


def represented_distance(vectors: Vectors, rows: Tensor, sources: Tensor, smooth: int) -> Tensor:
    """Mean distance from a bank row to the good vectors that it would be the answer for.

    Those vectors choose among rows of other images, as a new image must. The mean is taken over the row and
    its `smooth` - 1 nearest rows, weighted by how many vectors each answers for.
    """
    distance, answer = nearest_elsewhere(vectors, rows, sources)
    finite = distance.isfinite()
    distance, answer = distance[finite].sqrt(), answer[finite]
    count = torch.zeros(len(rows)).index_add_(0, answer, torch.ones_like(distance))
    total = torch.zeros(len(rows)).index_add_(0, answer, distance)
    _, around = neighbours(rows, rows, min(smooth, len(rows)))
    overall = total.sum() / count.sum().clamp(min=1)
    # One vector of the average distance stands in where hardly any good vector chose these rows.
    return (total[around].sum(1) + overall) / (count[around].sum(1) + 1)
