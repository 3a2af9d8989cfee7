"""Greedy k-centre: which rows to remember, so that every other row has a remembered one close by.

Greedy takes the row farthest from all taken ones, again and again. As written that reads all rows once a
pick. Here the picks are the very same, but many share one pass: distances only ever fall, so as long as the
farthest of a few thousand candidates is farther than every row outside that set *was*, it is the farthest of
all. Each pass is then one matrix product, block by block, and peak memory is its product beside the rows.
"""

from functools import partial

import torch
from torch import Tensor

from blemish.memory.vectors import Vectors

CANDIDATES = 3072
PICKS_A_PASS = 512


def squared_norms(rows: Tensor) -> Tensor:
    return (rows * rows).sum(-1)


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """(rows, others), by the norm trick: right to about seven digits of the norms, not of the distance."""
    return torch.addmm(squared_norms(others)[None], rows, others.T, alpha=-2).add_(
        squared_norms(rows)[:, None]
    )


def k_centre(vectors: Vectors, count: int, *, start: int = 0) -> Tensor:
    """Row numbers in the order in which greedy takes them, fewer when the rest only repeats those taken."""
    count = min(count, len(vectors))
    taken = [start]
    nearest = torch.full((len(vectors),), torch.inf)
    fresh = vectors.rows(torch.tensor([start]))
    while True:
        vectors.each(partial(_bring_nearer, nearest, fresh))
        nearest[torch.tensor(taken[-len(fresh) :])] = 0
        if len(taken) == count:
            break
        picks, fresh = _agreed_picks(vectors, nearest, count - len(taken))
        if not picks:
            break
        taken += picks
    return torch.tensor(taken)


def _bring_nearer(nearest: Tensor, fresh: Tensor, _: int, place: slice, block: Tensor) -> None:
    closest = squared_distances(block, fresh).amin(1).clamp_(min=0)
    torch.minimum(nearest[place], closest, out=nearest[place])


def _agreed_picks(vectors: Vectors, nearest: Tensor, wanted: int) -> tuple[list[int], Tensor]:
    """The next picks that greedy is certain to make, and their rows."""
    reach, rows = nearest.topk(min(CANDIDATES, len(nearest)))
    outside = float(reach[-1]) if len(reach) < len(nearest) else -1.0  # nothing else is farther than this
    candidates = vectors.rows(rows)
    apart = squared_distances(candidates, candidates).clamp_(min=0)
    repeat = float(squared_norms(candidates).max()) * 1e-6  # what rounding leaves of a distance that is zero
    picks: list[int] = []
    while len(picks) < min(wanted, PICKS_A_PASS):
        farthest = int(reach.argmax())
        if reach[farthest] < outside or reach[farthest] <= repeat:
            break
        picks.append(farthest)
        torch.minimum(reach, apart[farthest], out=reach)
        reach[farthest] = 0
    chosen = torch.tensor(picks, dtype=torch.long)
    return rows[chosen].tolist(), candidates[chosen]
