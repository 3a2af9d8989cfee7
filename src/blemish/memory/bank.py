"""The bank of remembered patch vectors and the scorer that asks it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import BudgetError
from blemish.memory.density import Places
from blemish.memory.patches import PatchVectors, Rotation

SMOOTHING = 4.0
"""Standard deviation of the anomaly map's blur, in pixels of a 256-pixel picture."""


@dataclass(frozen=True, slots=True)
class Bank:
    rows: Tensor
    """(rows, width), rotated patch vectors."""
    sources: Tensor
    """For each row the number of the good image it came from."""
    density: Tensor
    """For each row what the image score takes off its distance: 0 for plain nearest neighbours."""
    map_density: Tensor
    """The same for the anomaly map."""
    places: Places
    """For each cell of the grid what the image score takes off next, and the factor that follows."""


def row_bytes(width: int) -> int:
    """Float32 row, its squared norm, density and source."""
    return 4 * (width + 2) + 8


def rows_within(megabytes: float, width: int, most: int) -> int:
    rows = int(megabytes * 1e6) // row_bytes(width)
    if rows < 1:
        raise BudgetError(
            f"A bank of {megabytes:g} MB holds no single patch vector of {width} values: "
            f"raise --bank-mb to at least {row_bytes(width) / 1e6:.3g}."
        )
    return min(rows, most)


class BankScorer(nn.Module):
    """Pictures → image score, anomaly map, and the good image closest to the worst place.

    The map is the distance to the nearest remembered row, less some of that row's density. For the image
    score all of it is taken off, the rest is seen against what good images score at that place, and the
    highest mean over 3×3 places counts. The two differ, for they answer different questions: where a defect
    is, its distance shows best; whether there is one shows only against how far apart good patches lie.
    """

    def __init__(
        self,
        patches: PatchVectors,
        rotation: Rotation,
        bank: Bank,
        *,
        size: tuple[int, int],
        squared: bool = False,
    ) -> None:
        super().__init__()
        self.patches = patches
        self.rotation = rotation
        self.size = size
        self.grid = bank.places.mean.shape
        self.squared = squared
        self.rows: Tensor
        self.search: Tensor
        self.density: Tensor
        self.sources: Tensor
        self.register_buffer("rows", bank.rows.contiguous())
        # A constant 1 at the end of every query brings in the rows' norms: one product ranks all rows.
        norms = bank.rows.square().sum(1, keepdim=True)
        search = torch.cat((-2 * bank.rows, norms), 1).T.contiguous()
        self.register_buffer("search", search, persistent=False)
        self.map_density: Tensor
        self.register_buffer("density", bank.density)
        self.register_buffer("map_density", bank.map_density)
        self.register_buffer("sources", bank.sources)
        self.usual: Tensor
        self.scale: Tensor
        self.register_buffer("usual", bank.places.mean.flatten())
        self.register_buffer("scale", bank.places.scale.flatten())
        self.down: Tensor
        self.across: Tensor
        self.register_buffer("down", spread(self.grid[0], size[0]), persistent=False)
        self.register_buffer("across", spread(self.grid[1], size[1]).T.contiguous(), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.score(self.rotation(self.patches(pictures)))

    def score(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ones = torch.ones_like(vectors[..., :1])
        nearest = (torch.cat((vectors, ones), -1) @ self.search).argmin(-1)
        # Taken again from the difference: the product form loses the digits of near-duplicates.
        distance = (vectors - self.rows[nearest]).square().sum(-1)
        if not self.squared:
            distance = distance.sqrt()
        places = (distance - self.density[nearest] - self.usual) * self.scale
        worst = self.sources[nearest.gather(1, places.argmax(1, keepdim=True))[:, 0]]
        places = places.reshape(-1, *self.grid)
        pooled = F.avg_pool2d(places[:, None], min(3, *self.grid), stride=1)
        heat = (distance - self.map_density[nearest]).reshape(-1, *self.grid)
        return pooled.flatten(1).amax(1), self.down @ heat @ self.across, worst


def spread(cells: int, pixels: int) -> Tensor:
    """(pixels, cells): bilinear enlargement with half-pixel centres, then a Gaussian blur, as one matrix."""
    enlarged = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T
    sigma = SMOOTHING * pixels / 256
    reach = min(int(4 * sigma + 0.5), pixels - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    padded = F.pad(enlarged.T[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T.contiguous()
