"""Is a patch a normal or an abnormal one of its class? Asked of the two texts that say so.

Paper: Ho, Peng and Vasconcelos, "Long-Tailed Anomaly Detection with Learnable Class Names", arXiv 2403.20236:
patches are projected to where the texts are, and go to the nearer of the two.
Ours: what an abnormal patch is, for nobody has any to learn from: noise, patches of other products, and what
the reconstruction misses, overdone; each within a blob.
"""

from collections.abc import Sequence
from math import log, sqrt
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.namestate import TEMPERATURE
from blemish.nets.space import Seen

Level = Literal["patch", "image"]
COLDEST, HOTTEST = 0.01, 0.5
SMOOTHING = 0.05
KINDS = 0.5, 0.3, 0.2
"""Shares of noise, of transplants, and of what is missed, overdone."""
AREA = 0.02, 0.3
"""Of the grid, that a blob covers."""
COARSE = 4
"""Cells of the grid to one of the noise that blobs are cut from."""
NOISE = 0.05, 1.2
"""Lengths of noise by those of patches; each magnitude is as frequent as any other."""
PUSH = 1.0, 4.0


class Semantic(nn.Module):
    """Maps (N, channels, H, W) and texts (K, width) → log-odds (N, K, H, W) that a patch is abnormal.

    Where a model's patches (N, own, H, W) come near its texts, what is learned is added to them and starts
    as nothing. Elsewhere it starts as the first channels of the maps, in which names start, too.
    """

    def __init__(
        self,
        deviations: Tensor,
        width: int,
        *,
        hidden: int = 0,
        own: int = 0,
        start: Tensor | None = None,
        level: Level = "patch",
    ) -> None:
        """`deviations` (channels,) are those of normal patches. `hidden` units learn what is no sum of
        channels, such as how far a patch lies from normal ones: then no norm may take its length away.
        `start` (width, own) takes the model's patches to its texts, where they do not lie there already.
        """
        super().__init__()
        self.level = level
        channels = len(deviations)
        self.deviations = nn.Parameter(deviations.clone(), False)
        self.norm = nn.Identity() if own or hidden else nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)
        self.bend = (
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, width))
            if hidden
            else None
        )
        self.own = nn.Linear(own, width, bias=False) if own else None
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        with torch.no_grad():
            nn.init.zeros_(self.project.bias)
            if self.own is None:
                nn.init.eye_(self.project.weight)
            else:
                nn.init.zeros_(self.project.weight)
                self.own.weight.copy_(torch.eye(width, own) if start is None else start)
            if self.bend is not None:
                for part in self.bend[2].parameters():
                    nn.init.zeros_(part)

    def embed(self, maps: Tensor, patches: Tensor | None = None) -> Tensor:
        """(N, H, W, width), of length 1."""
        seen = self.norm(maps.permute(0, 2, 3, 1) / self.deviations)
        found = self.project(seen)
        if self.bend is not None:
            found = found + self.bend(seen)
        if self.own is not None:
            assert patches is not None
            found = found + self.own(patches.permute(0, 2, 3, 1))
        return F.normalize(found, dim=3)

    def forward(
        self, maps: Tensor, normal: Tensor, abnormal: Tensor, patches: Tensor | None = None
    ) -> Tensor:
        grid = [int(side) for side in maps.shape[-2:]]
        if self.level == "image":
            maps = maps.mean((2, 3), keepdim=True)
            patches = None if patches is None else patches.mean((2, 3), keepdim=True)
        nearer = self.embed(maps, patches) @ (abnormal - normal).T
        odds = (nearer / self.temperature.clamp(COLDEST, HOTTEST)).permute(0, 3, 1, 2)
        return odds if self.level == "patch" else odds.expand(-1, -1, *grid)


def semantic_loss(odds: Tensor, abnormal: Tensor) -> Tensor:
    """Cross-entropy of log-odds with what is so; all abnormal patches count as much as all normal ones."""
    wanted = abnormal * (1 - SMOOTHING) + SMOOTHING / 2
    off = F.binary_cross_entropy_with_logits(odds, wanted, reduction="none")
    sides = abnormal, 1 - abnormal
    return torch.stack([(off * side).sum() / side.sum().clamp(min=1) for side in sides]).sum()


class Pseudo(NamedTuple):
    """What is seen, with pseudo-anomalies."""

    seen: Seen
    where: Tensor
    """(N, H, W): ones and zeros."""
    push: Tensor
    """(N,): by how many times of what the reconstruction misses the maps are to be moved; mostly 0."""

    def pushed(self, missed: Tensor | None) -> Seen:
        """`missed`: maps less what they were rebuilt as, of the first channels at least."""
        if missed is None:
            return self.seen
        maps = self.seen.maps
        missed = F.pad(missed, (0, 0, 0, 0, 0, maps.shape[1] - missed.shape[1]))
        return self.seen._replace(maps=maps + self.push[:, None, None, None] * self.where[:, None] * missed)


def pseudo_anomalies(
    seen: Seen, classes: Tensor, generator: torch.Generator, *, rebuilt: bool = False
) -> Pseudo:
    """One blob in each picture. `rebuilt`: there is a reconstruction whose misses can be overdone."""
    count, _, *grid = seen.maps.shape
    where = blobs(count, (grid[0], grid[1]), generator)
    shares = torch.tensor(KINDS if rebuilt else KINDS[:2])
    kind = torch.multinomial(shares, count, replacement=True, generator=generator)
    low, high = map(log, NOISE)
    strength = uniform((low, high), count, generator).exp()
    push = uniform(PUSH, count, generator) * (kind == 2)
    source = donors(classes, generator)
    kind[(kind == 1) & (source == torch.arange(count))] = 0

    def changed(maps: Tensor, overdone: bool) -> Tensor:
        noise = torch.randn(maps.shape, generator=generator) * maps.norm(dim=1, keepdim=True)
        noisy = maps + noise * (strength / sqrt(maps.shape[1]))[:, None, None, None]
        found = torch.stack([noisy, maps[source], maps if overdone else noisy])[kind, torch.arange(count)]
        return torch.where(where[:, None], found, maps)

    # What nobody rebuilds cannot be driven away from it, and has noise instead.
    patches = None if seen.patches is None else changed(seen.patches, False)
    return Pseudo(Seen(changed(seen.maps, True), patches), where.float(), push)


def blobs(count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(count, *grid): where smooth noise is highest."""
    coarse = [max(-(-side // COARSE), 2) for side in grid]
    smooth = F.interpolate(
        torch.randn(count, 1, *coarse, generator=generator), size=grid, mode="bicubic", align_corners=False
    )[:, 0].flatten(1)
    cells = grid[0] * grid[1]
    wanted = (uniform(AREA, count, generator) * cells).round().long().clamp(min=1)
    place = smooth.argsort(1, descending=True).argsort(1)
    return torch.unflatten(place < wanted[:, None], 1, grid)


def donors(classes: Tensor, generator: torch.Generator) -> Tensor:
    """(N,): of each picture one of another class; itself where there is none.

    None from elsewhere in the same picture: to a classifier that knows no places those patches are normal.
    """
    foreign = (classes[:, None] != classes).float()
    foreign += torch.diag((foreign.sum(1) == 0).float())
    return torch.multinomial(foreign, 1, generator=generator)[:, 0]


def uniform(between: Sequence[float], count: int, generator: torch.Generator) -> Tensor:
    low, high = between
    return low + (high - low) * torch.rand(count, generator=generator)
