"""Distance to the nearest remembered patch: the plain baseline of the memory-bank family.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (PatchCore), arXiv 2106.08265.
Faithful: locally aware patch vectors of two middle stages, greedy k-centre coreset, nearest neighbour.
Ours: the bank's size is a byte budget; greedy picks are exact instead of on random projections; distances are
half whitened; an image scores the highest mean of 3×3 places instead of the highest place re-weighted.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from blemish.errors import UsageError
from blemish.methods._bank import BankMethod
from blemish.methods._registry import register


@dataclass(frozen=True, kw_only=True)
class Config:
    taps: tuple[str, ...] = ()
    """Stages of the backbone whose maps make up the patch vectors; the backbone's own choice when empty."""
    rows: int = 3072
    """The most patch vectors to remember, 0: all. More find finer differences and take longer to search."""
    whiten: float = 0.5
    """0: distances as the backbone gives them; 1: all directions in which good patches vary count alike."""
    dims: int = 0
    """Principal directions to keep; all when 0."""

    def __post_init__(self) -> None:
        for name in ("rows", "whiten", "dims"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least 0.")


@register
class KNN(BankMethod):
    name: ClassVar[str] = "knn"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {"fast": {}, "full": {"rows": 12288}}
