"""The bank of remembered patch vectors and the scorer that asks it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import BudgetError
from blemish.memory.density import Places
from blemish.memory.patches import PatchVectors, Rotation
from blemish.memory.scorers import GlobalGaussian, Measure, Nearest

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
    classes: Tensor | None = None
    """(rows, classes): a one for the product that each row is of, where there are several."""

    def image_scores(self, distance: Tensor, nearest: Tensor, stride: int = 1) -> Tensor:
        """Of images whose cells lie at these distances from these rows, image after image."""
        usual, scale = (each.flatten() for each in self.places)
        cells = distance.reshape(-1, len(usual)), self.density[nearest].reshape(-1, len(usual))
        return highest_mean(seen_in_place(*cells, usual, scale), self.places.mean.shape, stride)


def seen_in_place(distance: Tensor, density: Tensor, usual: Tensor, scale: Tensor) -> Tensor:
    return (distance - density - usual) * scale


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


def highest_mean(places: Tensor, grid: Sequence[int], stride: int = 1) -> Tensor:
    """(N, cells) → (N,), the highest mean of 3×3 places. With REB's stride of 3 the last never count."""
    return F.avg_pool2d(places.reshape(-1, 1, *grid), min(3, *grid), stride).flatten(1).amax(1)


class BankScorer(nn.Module):
    """Pictures → image score, anomaly map, and the good image closest to the worst place; of several products
    also the share of cells whose nearest row is of each.

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
        measure: Measure | None = None,
        stride: int = 1,
        whole: GlobalGaussian | None = None,
    ) -> None:
        """`measure` takes the place of the plain distance, and `whole` that of the image score."""
        super().__init__()
        self.patches = patches
        self.rotation = rotation
        self.size = size
        self.grid = bank.places.mean.shape
        self.stride = stride
        self.measure = measure or Nearest(bank.rows)
        # What is taken off the distance is the nearest row's, and rounding decides which of two that is.
        off = {"score": bank.density, "map": bank.map_density}
        self.jumps = [name for name, density in off.items() if self.measure.jumps or density.any()]
        self.whole = whole
        self.density: Tensor
        self.map_density: Tensor
        self.sources: Tensor
        self.register_buffer("density", bank.density)
        self.register_buffer("map_density", bank.map_density)
        self.register_buffer("sources", bank.sources)
        self.classes: Tensor | None
        self.register_buffer("classes", bank.classes)
        self.usual: Tensor
        self.scale: Tensor
        self.register_buffer("usual", bank.places.mean.flatten())
        self.register_buffer("scale", bank.places.scale.flatten())
        self.down: Tensor
        self.across: Tensor
        self.register_buffer("down", spread(self.grid[0], size[0]), persistent=False)
        self.register_buffer("across", spread(self.grid[1], size[1]).T.contiguous(), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        vectors = self.patches(pictures)
        score, *others = self.score(self.rotation(vectors))
        if self.whole is not None:
            score = self.whole(vectors.mean(1))
        return score, *others

    def score(self, vectors: Tensor) -> tuple[Tensor, ...]:
        distance, nearest = self.measure(vectors)
        places = seen_in_place(distance, self.density[nearest], self.usual, self.scale)
        worst = self.sources[nearest.gather(1, places.argmax(1, keepdim=True))[:, 0]]
        heat = (distance - self.map_density[nearest]).reshape(-1, *self.grid)
        found = highest_mean(places, self.grid, self.stride), self.down @ heat @ self.across, worst
        return found if self.classes is None else (*found, self.classes[nearest].mean(1))


def spread(cells: int, pixels: int) -> Tensor:
    """(pixels, cells): bilinear enlargement with half-pixel centres, then a Gaussian blur, as one matrix."""
    enlarged = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T
    sigma = SMOOTHING * pixels / 256
    reach = min(int(4 * sigma + 0.5), pixels - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    padded = F.pad(enlarged.T[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T.contiguous()
