"""How far what is seen of a picture is from what its reconstruction let expect."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.memory.patches import PatchVectors
from blemish.nets.distillation import Moments

LEAST = 1e-2
"""Share of the mean variance that is added to each."""
ROUNDING = 1e-3
"""The same of the mean square of what is seen."""


class Surprise(nn.Module):
    """Pictures, and what was rebuilt of them → maps (N, H, W) of how unlikely the first are by the second.

    What a backbone sees of a good picture and of its reconstruction is taken to be Gaussian together. What to
    expect is then linear in the reconstruction, so that what is always lost in it surprises nobody, and
    distances are in the deviations that remain.
    """

    def __init__(self, patches: PatchVectors, size: tuple[int, int]) -> None:
        super().__init__()
        self.patches, self.size, self.grid = patches, size, patches.grid(size)
        with torch.no_grad():
            width = patches(torch.zeros(1, 3, *size)).shape[2]
        self.matrix: Tensor
        self.bias: Tensor
        self.register_buffer("matrix", torch.zeros(2 * width, width))
        self.register_buffer("bias", torch.zeros(width))

    def seen(self, pictures: Tensor, rebuilt: Tensor) -> Tensor:
        """(N, cells, width of both)"""
        return torch.cat([self.patches(pictures), self.patches(rebuilt)], dim=2)

    def settle(self, good: Iterable[Tensor]) -> None:
        """By what is seen (cells, width of both) of good pictures and what was rebuilt of them."""
        mean, covariance = Moments.of([seen.T] for seen in good)[0]
        width = len(self.bias)
        others = covariance[width:, width:]
        rounding = ROUNDING * (covariance.diagonal() + mean.square()).mean()
        told = torch.linalg.solve(others + floor(others, rounding), covariance[width:, :width])
        off = torch.cat([torch.eye(width).double(), -told])
        left = off.T @ covariance @ off
        turn = torch.linalg.inv(torch.linalg.cholesky(left + floor(left, rounding)))
        self.matrix = (off @ turn.T).float()
        self.bias = -(mean @ off @ turn.T).float()

    def forward(self, pictures: Tensor, rebuilt: Tensor) -> Tensor:
        off = self.seen(pictures, rebuilt) @ self.matrix + self.bias
        far = off.square().mean(2).sqrt().reshape(-1, 1, *self.grid)
        return F.interpolate(far, self.size, mode="bilinear", align_corners=False)[:, 0]


def floor(covariance: Tensor, rounding: Tensor) -> Tensor:
    """To add to it, for in few good pictures some directions hardly vary, and in equal ones none does."""
    more = LEAST * covariance.diagonal().mean() + rounding
    return more.clamp(min=1e-12) * torch.eye(len(covariance)).double()
