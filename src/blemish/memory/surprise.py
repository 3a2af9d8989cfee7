"""How far what is seen of a picture is from what its reconstruction let expect."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.memory.coreset import k_centre
from blemish.memory.patches import PatchVectors
from blemish.memory.vectors import Vectors
from blemish.nets.distillation import Moments

LEAST = 1e-2
"""Share of the mean variance that is added to each."""
ROUNDING = 1e-3
"""The same of the mean square of what is seen."""
ENOUGH = 8
"""Patches for each number of a vector, of which a Gaussian can be told."""
HALF = 0.4
"""Above which share of a patch it was hidden: no quarter, for most shares are, and rounding would decide."""
COPIED = 0.7
"""What a surprise counts where nothing was hidden."""
ROWS, SOME = 256, 128
"""Surprises of good pictures that are remembered, of so many patches of each."""
NEAR = 0.05
"""Deviations: what is less is rounding."""


class Surprise(nn.Module):
    """Pictures, what was rebuilt of them and what was hidden → maps (N, H, W) of how unlikely the first are.

    What a backbone sees of a good picture and of its reconstruction is taken to be Gaussian together. What to
    expect is then linear in the reconstruction, so that what is always lost in it surprises nobody, and
    what remains is told in its deviations. Good pictures surprise, too, at edges most: what counts is how far
    a surprise is from the nearest of some that they had. Patches that were hidden have a Gaussian and
    surprises of their own: what was not is copied, and would make of every gap that is filled in a surprise.
    """

    def __init__(self, patches: PatchVectors, size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.patches, self.size, self.grid = patches, size, patches.grid(size)
        with torch.no_grad():
            self.width = patches(torch.zeros(1, channels, *size)).shape[2]
        self.matrix: Tensor
        self.bias: Tensor
        # Of all patches, and of those that were hidden; what is remembered, of visible and of hidden ones.
        self.register_buffer("matrix", torch.zeros(2, 2 * self.width, self.width))
        self.register_buffer("bias", torch.zeros(2, self.width))
        self.rows: Tensor
        self.register_buffer("rows", torch.zeros(2, 1, self.width))

    def seen(self, pictures: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
        """(N, cells, width of both and whether it was hidden)"""
        share = F.interpolate(hidden[:, None], self.grid, mode="bilinear", align_corners=False)
        mostly = (share > HALF).to(rebuilt).flatten(2).transpose(1, 2)
        return torch.cat([self.patches(pictures), self.patches(rebuilt), mostly], dim=2)

    def remember(self, kinds: list[Tensor], every: Tensor) -> None:
        """Surprises that none of the others is far from: of each kind of patches, of all where it has few."""
        each = []
        for place, kind in enumerate(kinds):
            off = (kind if len(kind) >= ROWS else every) @ self.matrix[place] + self.bias[place]
            rows = off[k_centre(Vectors.of([off], off.nbytes), ROWS)]
            each.append(torch.cat([rows, rows[:1].expand(ROWS - len(rows), -1)]))
        self.rows = torch.stack(each)

    def forward(self, pictures: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
        seen = self.seen(pictures, rebuilt, hidden)
        off = seen[:, None, :, :-1] @ self.matrix + self.bias[:, None]
        apart = torch.stack([nearest(off[:, place], self.rows[place]) for place in (0, 1)], 1)
        far = torch.where(seen[..., -1] > 0.5, apart[:, 1], COPIED * apart[:, 0]).reshape(-1, 1, *self.grid)
        return F.interpolate(far, self.size, mode="bilinear", align_corners=False)[:, 0]


def settle(surprises: Sequence[Surprise], good: Iterable[Tensor]) -> None:
    """By what is seen (surprises, cells, width of both and one) of good pictures and what was rebuilt of them
    in as many ways."""
    hidden, some = [0] * len(surprises), []

    def stages() -> Iterator[list[Tensor]]:
        for number, ways in enumerate(good):
            order = np.random.default_rng([number]).permutation(ways.shape[1])
            some.append(ways[:, torch.from_numpy(order[:SOME])])
            both = []
            for way, seen in enumerate(ways):
                which = seen[:, -1] > 0.5
                hidden[way] += int(which.sum())
                both += [seen[:, :-1].T, seen[which, :-1].T]
            yield both

    moments = Moments.of(stages())
    patches = torch.cat(some, 1)
    for way, surprise in enumerate(surprises):
        every, own = moments[2 * way : 2 * way + 2]
        known = own if hidden[way] >= ENOUGH * surprise.width else every
        for place, each in enumerate((every, known)):
            surprise.matrix[place], surprise.bias[place] = conditional(each)
        which = patches[way, :, -1] > 0.5
        seen = patches[way, :, :-1]
        surprise.remember([seen[~which], seen[which]], seen)


def nearest(off: Tensor, rows: Tensor) -> Tensor:
    """(N, cells): root mean square distance of vectors (N, cells, width) from the nearest row."""
    which = (rows.square().sum(1) - 2 * off @ rows.T).argmin(2)
    # From the difference: the product form loses the digits of vectors that lie close to a row.
    return ((off - rows[which]).square().mean(2) + NEAR**2).sqrt()


def conditional(moments: Moments) -> tuple[Tensor, Tensor]:
    """What turns a vector of two halves into the first by the second's deviations."""
    mean, covariance = moments
    width = len(mean) // 2
    others = covariance[width:, width:]
    rounding = ROUNDING * (covariance.diagonal() + mean.square()).mean()
    told = torch.linalg.solve(others + floor(others, rounding), covariance[width:, :width])
    off = torch.cat([torch.eye(width).double(), -told])
    left = off.T @ covariance @ off
    turn = torch.linalg.inv(torch.linalg.cholesky(left + floor(left, rounding)))
    return (off @ turn.T).float(), -(mean @ off @ turn.T).float()


def floor(covariance: Tensor, rounding: Tensor) -> Tensor:
    """To add to it, for in few good pictures some directions hardly vary, and in equal ones none does."""
    more = LEAST * covariance.diagonal().mean() + rounding
    return more.clamp(min=1e-12) * torch.eye(len(covariance)).double()
