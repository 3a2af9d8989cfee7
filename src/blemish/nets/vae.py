"""A generator of feature maps, told which class: pictures that the tail of a long-tailed set lacks.

Paper: Ho, Peng and Vasconcelos, "Long-Tailed Anomaly Detection with Learnable Class Names", arXiv 2403.20236:
a VAE whose condition is the embedding of the class's learned name.
Ours: all sizes, and what keeps the made maps near the real ones: truncation, the class's own moments, noise
for what a VAE smooths away, and no map that is unlike every real one.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
BETA, WARM_UP = 1e-3, 0.2
TRUNCATED = 2.0
SHRUNK = 10
"""Real pictures that the mean of all classes counts for when a class's deviations are estimated."""
SURE = 5
"""Real pictures of a class from which on it is known how alike they are."""
REFUSED = 0.01
TRIES = 4
PROBED = 32
"""Maps made of each class to find out how they differ from real ones."""


def norm(width: int) -> nn.GroupNorm:
    """In groups of two channels at least: of one picture's single cell, one would be no deviation."""
    return nn.GroupNorm(min(GROUPS, width // 2), width)


class Film(nn.Module):
    """Normalised in groups, then scaled and shifted by what the condition says."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.told = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.told(condition)[..., None, None].chunk(2, dim=1)
        return F.silu(self.norm(x) * (1 + scale) + shift)


class ConditionalVAE(nn.Module):
    """Maps (N, channels, *grid) → latent vectors and back; `condition` (N, its width) is the class's name."""

    def __init__(
        self, channels: int, grid: tuple[int, int], condition: int, *, width: int = 128, latent: int = 128
    ) -> None:
        super().__init__()
        half, quarter = halved(grid), halved(halved(grid))
        self.sizes = quarter, half, grid
        self.latent = latent
        convolutions = (
            nn.Conv2d(channels, width, 1),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.Conv2d(width, width, 3, 2, 1),
        )
        self.encoder = nn.Sequential(*(nn.Sequential(each, norm(width), nn.SiLU()) for each in convolutions))
        cells = width * quarter[0] * quarter[1]
        self.told = nn.Linear(condition, latent)
        self.found = nn.Linear(cells + latent, 2 * latent)
        self.start = nn.Linear(2 * latent, cells)
        self.steps = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.films = nn.ModuleList(Film(width, condition) for _ in range(3))
        self.output = nn.Conv2d(width, channels, 1)

    def encode(self, maps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latent vectors."""
        seen = torch.cat([self.encoder(maps).flatten(1), self.told(condition)], dim=1)
        mean, log_variance = self.found(seen).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 6)  # beyond, its exponential is of no use to anybody

    def decode(self, latent: Tensor, condition: Tensor) -> Tensor:
        x = self.start(torch.cat([latent, self.told(condition)], dim=1)).unflatten(1, (-1, *self.sizes[0]))
        x = self.films[0](x, condition)
        for step, film, size in zip(self.steps, list(self.films)[1:], self.sizes[1:], strict=True):
            x = film(step(F.interpolate(x, size=size, mode="bilinear", align_corners=False)), condition)
        return self.output(x)

    def loss(self, maps: Tensor, condition: Tensor, noise: Tensor, beta: float = BETA) -> Tensor:
        """`noise` (N, latent) is standard normal."""
        mean, log_variance = self.encode(maps, condition)
        rebuilt = self.decode(mean + noise * (log_variance / 2).exp(), condition)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return F.mse_loss(rebuilt, maps) + beta * divergence


def halved(grid: tuple[int, int]) -> tuple[int, int]:
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def warmed(beta: float, update: int, updates: int) -> float:
    """The divergence counts little at first, or the latent vectors would never come to mean anything."""
    return beta * min(update / max(WARM_UP * updates, 1), 1.0)


class Real(NamedTuple):
    """What is known of the real maps (N, channels, h, w) of each class."""

    means: Tensor
    deviations: Tensor
    """(classes, channels) each; of rare classes drawn to those of all."""
    pooled: list[Tensor]
    """(n, channels): each picture's mean vector, of length 1."""
    least: Tensor
    """(classes,): how alike a map must be to the most similar real one."""
    residual: Tensor
    """(channels,): deviation of what the VAE does not rebuild."""


class Synthesis:
    """Maps that pictures of a class might have had."""

    def __init__(self, vae: ConditionalVAE, table: Tensor, real: Real, *, seed: int = 0) -> None:
        self.vae, self.table, self.real = vae, table, real
        every = torch.arange(len(table)).repeat_interleave(PROBED)
        generator = torch.Generator().manual_seed(seed)
        made = torch.unflatten(self.made(every, generator), 0, (len(table), -1))
        self.means = made.mean((1, 3, 4))
        deviations = made.std((1, 3, 4), correction=0).clamp(min=1e-6)
        self.gains = real.deviations / deviations

    @classmethod
    def of(
        cls,
        vae: ConditionalVAE,
        table: Tensor,
        batches: Iterable[tuple[Tensor, Tensor]],
        counts: Sequence[int],
        *,
        seed: int = 0,
    ) -> "Synthesis":
        """From all real maps, in batches with the numbers of their classes."""
        # A copy: the network that it belongs to goes on to the device that learns.
        vae, table = deepcopy(vae).cpu().eval(), table.detach().cpu()
        return cls(vae, table, looked_at(vae, table, batches, torch.tensor(counts)), seed=seed)

    @torch.no_grad()
    def made(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        latent = truncated(len(classes), self.vae.latent, generator)
        maps = self.vae.decode(latent, self.table[classes])
        noise = torch.randn(maps.shape, generator=generator)
        return maps + noise * self.real.residual[:, None, None]

    def like_real(self, maps: Tensor, classes: Tensor) -> Tensor:
        """With the mean and the deviation that their class has in each channel."""
        usual, own, gain = (
            each[classes][..., None, None] for each in (self.real.means, self.means, self.gains)
        )
        return (maps - own) * gain + usual

    def likeness(self, maps: Tensor, classes: Tensor) -> Tensor:
        """(N,): of each map the cosine with the most similar real one of its class."""
        looks = F.normalize(maps.mean((2, 3)), dim=1)
        pairs = zip(looks, classes.tolist(), strict=True)
        return torch.stack([(self.real.pooled[klass] @ look).max() for look, klass in pairs])

    def draw(self, classes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A map of each of these classes, and whether it is like a real one: if not, it was drawn again, a
        few times."""
        maps, alike = self.tried(classes, generator)
        for _ in range(TRIES - 1):
            again = (alike < self.real.least[classes]).nonzero()[:, 0]
            if not len(again):
                break
            others, nearer = self.tried(classes[again], generator)
            better = nearer > alike[again]
            maps[again[better]], alike[again[better]] = others[better], nearer[better]
        return maps, alike >= self.real.least[classes]

    def tried(self, classes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        maps = self.like_real(self.made(classes, generator), classes)
        return maps, self.likeness(maps, classes)


def truncated(count: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, width): standard normal, each number drawn again while it lies too far out."""
    drawn = torch.randn(count, width, generator=generator)
    while (outside := drawn.abs() > TRUNCATED).any():
        drawn[outside] = torch.randn(int(outside.sum()), generator=generator)
    return drawn


@torch.no_grad()
def looked_at(
    vae: ConditionalVAE, table: Tensor, batches: Iterable[tuple[Tensor, Tensor]], counts: Tensor
) -> Real:
    sums = torch.zeros(2, len(table), vae.output.out_channels, dtype=torch.double)
    residual, head = torch.zeros(vae.output.out_channels, dtype=torch.double), counts >= counts.float().mean()
    pooled: list[list[Tensor]] = [[] for _ in table]
    for maps, classes in batches:
        moments = torch.stack([maps.mean((2, 3)), maps.square().mean((2, 3))])
        sums.index_add_(1, classes, moments.double())
        for look, klass in zip(F.normalize(moments[0], dim=1), classes.tolist(), strict=True):
            pooled[klass].append(look)
        if (known := head[classes]).any():
            condition = table[classes[known]]
            rebuilt = vae.decode(vae.encode(maps[known], condition)[0], condition)
            residual += (maps[known] - rebuilt).square().mean((2, 3)).double().sum(0)
    means, squares = sums / counts[:, None]
    own = (squares - means.square()).clamp(min=0).sqrt()
    shared = own.square().mean(0).sqrt()
    weight = (counts / (counts + SHRUNK))[:, None]
    looks = [torch.stack(each) for each in pooled]
    return Real(
        means=means.float(),
        deviations=(weight * own + (1 - weight) * shared).float(),
        pooled=looks,
        least=torch.tensor([least_alike(each) for each in looks]),
        residual=(residual / counts[head].sum()).sqrt().float(),
    )


def least_alike(looks: Tensor) -> float:
    """Beyond what nearly all real pictures are to the most similar other one; −1 where too few can tell."""
    if len(looks) < SURE:
        return -1.0
    alike = (looks @ looks.T).fill_diagonal_(-torch.inf).amax(1)
    return float(alike.quantile(REFUSED))


def lacking(counts: Sequence[int]) -> Tensor | None:
    """(classes,): the share of made maps for each, by what it lacks to the largest; None where none does."""
    missing = max(counts) - torch.tensor(counts).float()
    return missing / missing.sum() if missing.any() else None
