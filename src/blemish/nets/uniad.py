"""UniAD: maps rebuilt by a transformer in which no patch sees itself or its neighbours.

Paper: You et al., "A Unified Model for Multi-class Anomaly Detection", arXiv 2206.03687; sizes, starting
values and scores are those of its authors' code. LTAD rebuilds features with the same network.
Ours: any grid; one draw of dropout for all maps of a batch, for on a CPU draws of their own take as long as
everything else; principal directions in which every class counts alike, for a small and quick network; almost
nothing is rebuilt at first, for random answers teach it to give all patches the same one, and hundreds of
updates do not unlearn that; and, where asked, patches look at near ones first.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.distillation import Moments

PUBLISHED = 224
"""Side of UniAD's pictures, which the window of its image score belongs to."""
FIRST = 0.01
"""By how much the first answers are made smaller."""
STEEPEST = 2.0
"""By how much affinities fall from a cell to the next, in the first head."""
BELOW = 60.0
"""How far below the highest affinity of a patch all others are at most, outside of training. In float32 the
rest is nothing as well, but of numbers so small that a processor takes several times as long for them."""
FAINT = 1e-2
"""Share of the mean deviation that no channel's is taken below when standardising: one that is nearly dead on
good pictures would otherwise drown all others once a defect wakes it."""
FAINTEST = 0.1
"""The same of a principal direction: few pictures leave many in which good ones hardly vary, and what is
divided by their deviations there is mostly rounding."""

Error = Literal["sq", "l2", "cos", "both"]


def neighbour_mask(grid: tuple[int, int], size: int | tuple[int, int]) -> Tensor:
    """(T, T): true where the patch of a row may not look, in a window of `size` cells around itself.

    It never spans more than half of the grid: at 7 × 7 one of 7 would leave the middle nothing to look at.
    """
    sides = (size, size) if isinstance(size, int) else size
    if any(side < 1 or side % 2 == 0 for side in sides):
        raise UsageError(f"Neighbourhoods of {sides[0]} × {sides[1]} have no middle: give odd numbers.")
    if max(grid) < 2:
        raise UsageError("A map of one cell has no others to be rebuilt from: take larger pictures.")
    near = []
    for cells, side in zip(grid, sides, strict=True):
        most = max((cells // 2 - 1) // 2, 0)
        places = torch.arange(cells)
        near.append((places[:, None] - places).abs() <= min(side // 2, most))
    return torch.kron(*near)


def distances(grid: tuple[int, int]) -> Tensor:
    """(T, T), in cells."""
    places = torch.cartesian_prod(*(torch.arange(cells, dtype=torch.float) for cells in grid))
    return torch.cdist(places, places)


class Dropout(nn.Module):
    """The same draw for all of a batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        return x * F.dropout(torch.ones_like(x[:1]), self.share)


class Attention(nn.Module):
    """Queries and keys know their places, values do not."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor, places: Tensor, bars: Tensor) -> Tensor:
        """What tokens `x` find in those `seen`; `bars` ([heads,] T, T) are added to the affinities."""
        count, width = int(x.shape[1]), int(x.shape[2])
        # Of shapes that are constants but for the batch a graph computes none.
        shape = -1, count, self.heads, width // self.heads
        linear = zip(self.inputs.weight.chunk(3), self.inputs.bias.chunk(3), strict=True)
        query, key, value = (
            F.linear(tokens, *each).reshape(shape).transpose(1, 2)
            for tokens, each in zip((x + places, seen + places, seen), linear, strict=True)
        )
        # Products are quicker than torch's fused attention, in ONNX Runtime and, with bfloat16, in training.
        affinities = query * (width // self.heads) ** -0.5 @ key.transpose(-1, -2)
        affinities = affinities + bars.to(affinities)  # float32 would make all that follows so
        if not self.training:
            affinities = torch.maximum(affinities, affinities.amax(-1, keepdim=True) - BELOW)
        found = self.drop(affinities.softmax(-1)) @ value
        return self.output(found.transpose(1, 2).reshape(-1, count, width))


class Layer(nn.Module):
    """Looks at each of its sources in turn, then thinks; normalised after every step."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, sources: int) -> None:
        super().__init__()
        self.looks = nn.ModuleList(Attention(width, heads, dropout) for _ in range(sources))
        self.think = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(sources + 1))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, sources: Sequence[Tensor], places: Tensor, bars: Tensor) -> Tensor:
        for look, norm, seen in zip(self.looks, self.norms, sources, strict=False):
            x = norm(x + self.drop(look(x, seen, places, bars)))
        return self.norms[-1](x + self.drop(self.think(x)))


class Reconstruction(nn.Module):
    """Maps (N, channels, *grid) → what each patch must be, from all that is not near it.

    The decoder starts from learned queries, never from what it rebuilds, so that nothing can be copied.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        *,
        width: int = 256,
        heads: int = 8,
        depth: int = 4,
        hidden: int = 1024,
        dropout: float = 0.1,
        neighbours: int | tuple[int, int] = 7,
        near: bool = False,
    ) -> None:
        """`near`: affinities fall with the distance, in each head half as fast as in the last (ALiBi)."""
        super().__init__()
        if width % heads or width % 2:
            raise UsageError(
                f"A width of {width} can't be shared out: give an even multiple of {heads} heads."
            )
        barred = neighbour_mask(grid, neighbours)
        self.rows, self.columns = (nn.Parameter(torch.rand(side, width // 2)) for side in grid)
        self.queries = nn.Parameter(torch.randn(depth, 1, len(barred), width))
        self.encoder = nn.ModuleList(Layer(width, heads, hidden, dropout, 1) for _ in range(depth))
        self.decoder = nn.ModuleList(Layer(width, heads, hidden, dropout, 2) for _ in range(depth))
        self.input, self.output = nn.Linear(channels, width), nn.Linear(width, channels)
        self.norm = nn.LayerNorm(width)
        self.barred: Tensor
        self.register_buffer("barred", barred)  # part of the state, or a graph has it once for each attention
        self.away: Tensor | None
        self.register_buffer("away", distances(grid) if near else None)
        self.slopes = [STEEPEST / 2**head for head in range(heads)]
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        with torch.no_grad():
            self.output.weight.mul_(FIRST)

    def places(self) -> Tensor:
        """(T, width): of each patch its column, then its row."""
        grid = len(self.rows), len(self.columns), -1
        both = self.columns[None].expand(grid), self.rows[:, None].expand(grid)
        return torch.cat(both, -1).flatten(0, 1)

    def forward(self, maps: Tensor) -> Tensor:
        places = self.places()
        bars = torch.zeros_like(self.barred, dtype=places.dtype)
        if self.away is not None:
            bars = self.away * places.new_tensor([-slope for slope in self.slopes])[:, None, None]
        bars = bars.masked_fill(self.barred, -torch.inf)
        channels, *grid = (int(side) for side in maps.shape[1:])
        memory = self.input(maps.reshape(-1, channels, len(places)).transpose(1, 2))
        for layer in self.encoder:
            memory = layer(memory, [memory], places, bars)
        x = memory
        for layer, queries in zip(self.decoder, self.queries, strict=True):
            x = layer(queries, [memory, x], places, bars)
        return self.output(self.norm(x)).transpose(1, 2).reshape(-1, channels, *grid)


def jitter(
    maps: Tensor, scale: float = 20.0, probability: float = 1.0, *, generator: torch.Generator
) -> Tensor:
    """Maps to rebuild clean ones from, each with noise at this probability.

    The noise is scale/√channels times as long as the patch: 1.21 times with UniAD's 272 channels.
    """
    chosen = torch.rand(len(maps), 1, 1, 1, generator=generator, device=generator.device) < probability
    noise = torch.randn(maps.shape, generator=generator, device=generator.device) * chosen
    return maps + noise.to(maps) * maps.norm(dim=1, keepdim=True) * (scale / int(maps.shape[1]))


def reconstruction_error(maps: Tensor, rebuilt: Tensor, kind: Error) -> Tensor:
    """(N, H, W): of each patch the squared distance (LTAD), the distance (UniAD), half of 1 − cosine;
    `both`: the product of the last two, so that being long alone puts no patch far off."""
    squares = (maps - rebuilt).square().sum(1)
    if kind == "sq":
        return squares
    distance = squares.sqrt()
    if kind == "l2":
        return distance
    turned = ((1 - F.cosine_similarity(maps, rebuilt, dim=1)) / 2).clamp(min=0)
    return turned if kind == "cos" else distance * turned


def image_score(error: Tensor, window: float = 16) -> Tensor:
    """(N,): the highest mean over a square of the enlarged error maps (N, H, W).

    `window`: its side, in pixels of a 224-pixel picture.
    """
    sides = [int(side) for side in error.shape[-2:]]
    side = max(round(window * sqrt(sides[0] * sides[1]) / PUBLISHED), 1)
    rows, columns = (min(side, most) for most in sides)
    means = F.avg_pool2d(F.avg_pool2d(error[:, None], (rows, 1), 1), (1, columns), 1)
    return means.flatten(1).amax(1)


class Principal(nn.Module):
    """Maps of `channels` → their parts in the directions in which usual maps vary most, and back."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        if not 0 < kept <= channels:
            raise UsageError(f"{kept} principal directions of {channels} channels: keep 1 to {channels}.")
        self.mean = nn.Parameter(torch.zeros(channels), False)
        self.scale = nn.Parameter(torch.ones(channels), False)
        self.basis = nn.Parameter(torch.zeros(kept, channels), False)
        self.spread = nn.Parameter(torch.ones(kept), False)

    @classmethod
    def of(
        cls, usual: Sequence[Moments], kept: int, *, standardised: bool = True, whiten: float = 0.0
    ) -> "Principal":
        """From the moments of each class, all of which count alike. `standardised`: so do all channels.

        `whiten`: 0, parts vary as their directions do; 1, all alike, but for those that hardly vary at all.
        """
        mean, covariance = mixed(usual)
        self = cls(len(mean), kept)
        scale = torch.ones_like(mean)
        if standardised:
            scale = deviations(covariance)
        values, vectors = torch.linalg.eigh(covariance / scale.outer(scale))
        spread = values.flip(0).clamp(min=0).sqrt()
        spread = spread.clamp(min=FAINTEST * float(values.clamp(min=0).mean().sqrt()) or 1.0) ** whiten
        found = mean, scale, vectors.flip(1)[:, :kept].T, spread[:kept]
        for own, value in zip(self.parameters(), found, strict=True):
            own.data.copy_(value)
        return self

    @property
    def kernel(self) -> Tensor:
        """(kept, channels)"""
        return self.basis / self.scale / self.spread[:, None]

    def forward(self, maps: Tensor) -> Tensor:
        kernel = self.kernel
        return F.conv2d(maps, kernel[..., None, None], -kernel @ self.mean)

    def inverse(self, parts: Tensor) -> Tensor:
        kernel = (self.basis * self.scale).T * self.spread
        return F.conv2d(parts, kernel[..., None, None], self.mean)


def deviations(covariance: Tensor, least: float = FAINT) -> Tensor:
    """Of each channel, to divide by."""
    found = covariance.diagonal().clamp(min=0).sqrt()
    return found.clamp(min=least * float(found.mean()) or 1.0)


def mixed(classes: Sequence[Moments]) -> Moments:
    """Of vectors that come from each class equally often."""
    means, covariances = (torch.stack(each) for each in zip(*classes, strict=True))
    mean = means.mean(0)
    return Moments(mean, covariances.mean(0) + (means - mean).T @ (means - mean) / len(means))
