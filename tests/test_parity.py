"""A graph that is not what was trained is never written; what rounding decides is no such thing."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blemish.api import check_parity
from blemish.errors import ParityError
from blemish.model.inspector import Raw

SIDE = 64
BOTH = ("score", "map")
BATCH = np.random.default_rng(0).random((3, 1, SIDE, SIDE), np.float32)


class Trained(nn.Module):
    def __init__(self, *, jumps: Sequence[str]) -> None:
        super().__init__()
        self.jumps = jumps

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures.flatten(1).amax(1), pictures[:, 0]


def found(*, jumps: Sequence[str], score: float = 0.0, heat: float = 0.0, pixels: int = 0) -> dict[str, Any]:
    """Of a graph whose scores are off by so much, and so many pixels of each map."""

    def graph(batch: np.ndarray[Any, Any]) -> Raw:
        scores, maps = (out.numpy() for out in Trained(jumps=jumps)(torch.from_numpy(batch)))
        off = np.zeros(SIDE * SIDE, np.float32)
        off[:pixels] = heat
        return Raw(scores + np.float32(score), maps + off.reshape(SIDE, SIDE), None)

    return check_parity(Trained(jumps=jumps), cast(Any, graph), BATCH, [1.0, 1.0])


@pytest.mark.parametrize("jumps", [(), BOTH, ("map",)])
def test_what_agrees_is_told_with_what_was_allowed(jumps: Sequence[str]) -> None:
    parity, allowed = found(jumps=jumps), {name: 1e-2 if name in jumps else 1e-4 for name in BOTH}
    assert parity == {"score": 0, "map": 0, "images": 3, "allowed": allowed}


def test_a_pixel_that_differs_is_one_too_many() -> None:
    with pytest.raises(ParityError, match="no model was written"):
        found(jumps=(), heat=1e-3, pixels=1)


def test_rounding_may_move_a_cell_where_scores_jump() -> None:
    assert found(jumps=BOTH, heat=0.5, pixels=SIDE * SIDE // 200)["map"] <= 1e-4


@pytest.mark.parametrize(
    "off", [{"heat": 0.02, "pixels": SIDE * SIDE // 20}, {"score": 0.02}, {"score": np.nan}, {"heat": np.nan}]
)
def test_what_is_off_in_more_than_a_cell_is_refused_there_too(off: dict[str, Any]) -> None:
    with pytest.raises(ParityError):
        found(jumps=BOTH, **{"pixels": SIDE * SIDE} | off)


def test_a_score_that_does_not_jump_must_agree_beside_a_map_that_does() -> None:
    assert found(jumps=("map",), heat=5e-3, pixels=SIDE * SIDE)["map"] > 1e-3
    with pytest.raises(ParityError, match="The score of the exported graph"):
        found(jumps=("map",), score=1e-3)
