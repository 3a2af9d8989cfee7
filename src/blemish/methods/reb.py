"""REB: reducing the biases of remembered patches.

Paper: Lyu, Mo and Wong, "REB: Reducing Biases in Representation for Industrial Anomaly Detection",
arXiv 2308.12577.
Faithful: LDKNN — the distance to the nearest remembered row less the local density around that row. The
published density (mean squared distance to the K nearest of all vectors) is `--density paper`.
Ours: the density of a row is the distance at which good patches of other images meet it, smoothed over its
neighbours (`--density represented`). On a coreset the published one is inflated: greedy takes outliers, whose
nearest vectors are far. The same is then done for each place of the picture. The backbone is not adapted yet.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from blemish.memory.bank import Bank, BankScorer
from blemish.memory.density import place_statistics, published_density, represented_distance
from blemish.memory.neighbours import nearest_elsewhere
from blemish.memory.patches import Rotation
from blemish.memory.vectors import Vectors
from blemish.methods import knn
from blemish.methods._bank import BankMethod
from blemish.methods._contract import Run
from blemish.methods._registry import register


@dataclass(frozen=True, kw_only=True)
class Config(knn.Config):
    alpha: float = 1.0
    """How much of the local density is taken off, as in the paper; 0: plain nearest neighbour."""
    map_alpha: float = 0.25
    """The same for the anomaly map, which tells where rather than whether; `paper` uses alpha for both."""
    density: Literal["represented", "paper"] = "represented"
    """`represented`: how far good patches of other images lie from a row. `paper`: REB's LD_K, squared."""
    neighbours: int = 10
    """Over how many rows (represented) or vectors (the paper's K, 9 there) a density is averaged."""
    places: bool = True
    """Whether a score is seen against what good images score at the same place; not with `paper`."""


@register
class REB(BankMethod):
    name: ClassVar[str] = "reb"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {"fast": {}}

    def bank(self, vectors: Vectors, picked: Tensor, grid: tuple[int, int]) -> Bank:
        config, plain = self.config, super().bank(vectors, picked, grid)
        if config.density == "paper":
            density = config.alpha * published_density(vectors, picked, config.neighbours)[:, -1]
            return replace(plain, density=density, map_density=density.clone())
        distance, answer = nearest_elsewhere(vectors, plain.rows, plain.sources)
        apart = represented_distance(distance, answer, plain.rows, config.neighbours)
        density = config.alpha * apart
        places = plain.places
        if config.places:
            places = place_statistics((distance - density[answer]).reshape(-1, grid[0] * grid[1]), grid)
        return replace(plain, density=density, map_density=config.map_alpha * apart, places=places)

    def scorer(self, rotation: Rotation, bank: Bank, run: Run) -> BankScorer:
        paper = self.config.density == "paper"
        return BankScorer(self.patches, rotation, bank, size=run.size, squared=paper)
