"""How far apart good patches lie, around each remembered row and at each place of the picture.

REB's point is that a distance means little by itself: some normal regions are tightly clustered and others
spread out. What a good patch of a *new* image would score tells how much of a distance is normal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.memory.coreset import squared_distances
from blemish.memory.neighbours import neighbours
from blemish.memory.vectors import Vectors

IMAGES_BEHIND_A_PRIOR = 8
"""With this many images the statistics of a place count for as much as what holds everywhere."""
ROWS_A_PASS = 4096
"""The published density is found for so many rows at once: their product with one image's vectors is held."""


def published_density(
    vectors: Vectors, picked: Tensor, count: int, *, squared: bool = True, compat: bool = False
) -> Tensor:
    """LD_1 .. LD_count of each picked row, as prefix means: how far its nearest rows of all lie.

    A row is left out of its own neighbours by its number. With `compat` it is left out as in the authors'
    code, where the nearest goes only if it is exactly 0 away: by the norm trick a row itself often is not.
    """
    count = min(count, len(vectors) - 1)
    nearest = []
    for chunk in torch.split(picked, ROWS_A_PASS):
        rows = vectors.rows(chunk)
        best = torch.full((len(rows), count + compat), torch.inf)
        for place, block in vectors:
            apart = squared_distances(rows, block).clamp_(min=0)
            if not compat:
                own = ((chunk >= place.start) & (chunk < place.stop)).nonzero()[:, 0]
                apart[own, chunk[own] - place.start] = torch.inf
            best = torch.cat((best, apart), 1).topk(count + compat, largest=False).values
        nearest.append(best)
    best = torch.cat(nearest)
    if compat:
        best = torch.where(best[:, :1] == 0, best[:, 1:], best[:, :-1])
    return (best if squared else best.sqrt()).cumsum(1) / torch.arange(1, count + 1)


def represented_distance(distance: Tensor, answer: Tensor, rows: Tensor, smooth: int) -> Tensor:
    """Mean distance from each bank row to the good vectors that it is the answer for.

    `distance` and `answer` (a row number) belong to good vectors that chose among rows of other images, as a
    new image must. The mean is taken over the row and its `smooth` - 1 nearest rows, weighted by how many
    vectors each answers for.
    """
    finite = distance.isfinite()
    distance, answer = distance[finite], answer[finite]
    count = torch.zeros(len(rows)).index_add_(0, answer, torch.ones_like(distance))
    total = torch.zeros(len(rows)).index_add_(0, answer, distance)
    _, around = neighbours(rows, rows, min(smooth, len(rows)))
    overall = total.sum() / count.sum().clamp(min=1)
    # One vector of the average distance stands in where hardly any good vector chose these rows.
    return (total[around].sum(1) + overall) / (count[around].sum(1) + 1)


class Places(NamedTuple):
    """What good images score at each cell of the grid."""

    mean: Tensor
    scale: Tensor


def place_statistics(scores: Tensor, grid: Sequence[int]) -> Places:
    """`scores` (images, cells) of good images → what to subtract and by what to divide at each cell.

    Parts that lie still have places that are always rough (edges, borders, print) and places that never are;
    parts that lie anyhow have the same statistics everywhere, and nothing changes for them. The scale is the
    geometric mean of the place's own spread and the spread of the whole: halfway is where it helps most.
    """
    scores = scores[scores.isfinite().all(1)]
    if len(scores) < 2:
        return Places(torch.zeros(*grid), torch.ones(*grid))
    own = len(scores) / (len(scores) + IMAGES_BEHIND_A_PRIOR)
    mean = scores.mean(0)
    variance = (scores - mean).square().mean(0)
    whole = variance.mean()
    mean = own * smoothed(mean, grid) + (1 - own) * mean.mean()
    variance = own * smoothed(variance, grid) + (1 - own) * whole
    floor = 0.1 * whole + 1e-12
    return Places(mean, ((whole + floor) / (variance + floor)) ** 0.25)


def smoothed(cells: Tensor, grid: Sequence[int]) -> Tensor:
    return F.avg_pool2d(cells.reshape(1, 1, *grid), 3, 1, 1, count_include_pad=False)[0, 0]
