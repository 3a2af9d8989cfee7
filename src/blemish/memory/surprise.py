"""How far what is seen of a picture is from what its reconstruction let expect."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.memory.patches import PatchVectors
from blemish.nets.distillation import Moments

LEAST = 1e-2
"""Share of the mean variance that is added to each."""
ROUNDING = 1e-3
"""The same of the mean square of what is seen."""
ENOUGH = 8
"""Hidden patches for each number of a vector, of which a Gaussian can be told."""
HALF = 0.4
"""Above which share of a patch it was hidden: no quarter, for most shares are, and rounding would decide."""
COPIED = 0.7
"""What a surprise counts where nothing was hidden."""


class Surprise(nn.Module):
    """Pictures, what was rebuilt of them and what was hidden → maps (N, H, W) of how unlikely the first are.

    What a backbone sees of a good picture and of its reconstruction is taken to be Gaussian together. What to
    expect is then linear in the reconstruction, so that what is always lost in it surprises nobody, and
    distances are in the deviations that remain. Patches that were hidden have a Gaussian of their own: what
    was not is copied, and would make of every gap that is filled in a surprise.
    """

    def __init__(self, patches: PatchVectors, size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.patches, self.size, self.grid = patches, size, patches.grid(size)
        with torch.no_grad():
            self.width = patches(torch.zeros(1, channels, *size)).shape[2]
        self.matrix: Tensor
        self.bias: Tensor
        # Of all patches, and of those that were hidden.
        self.register_buffer("matrix", torch.zeros(2, 2 * self.width, self.width))
        self.register_buffer("bias", torch.zeros(2, self.width))

    def seen(self, pictures: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
        """(N, cells, width of both and whether it was hidden)"""
        share = F.interpolate(hidden[:, None], self.grid, mode="bilinear", align_corners=False)
        mostly = (share > HALF).to(rebuilt).flatten(2).transpose(1, 2)
        return torch.cat([self.patches(pictures), self.patches(rebuilt), mostly], dim=2)

    def settle(self, good: Iterable[Tensor]) -> None:
        """By what is seen (cells, width of both and one) of good pictures and what was rebuilt of them."""
        count = 0

        def stages() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal count
            for seen in good:
                both, hidden = seen[:, :-1], seen[:, -1] > 0.5
                count += int(hidden.sum())
                yield both.T, both[hidden].T

        every, own = Moments.of(stages())
        for place, moments in enumerate((every, own if count >= ENOUGH * self.width else every)):
            self.matrix[place], self.bias[place] = conditional(moments)

    def forward(self, pictures: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
        seen = self.seen(pictures, rebuilt, hidden)
        off = seen[:, None, :, :-1] @ self.matrix + self.bias[:, None]
        apart = off.square().mean(3).sqrt()
        far = torch.where(seen[..., -1] > 0.5, apart[:, 1], COPIED * apart[:, 0]).reshape(-1, 1, *self.grid)
        return F.interpolate(far, self.size, mode="bilinear", align_corners=False)[:, 0]


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
