import pytest
import torch

from blemish.memory.strangeness import NEAR, Remembered, Strangeness, means


def maps(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=drawn)


def remembered(seen: torch.Tensor, count: int = 1000) -> Remembered:
    return Remembered.of(means(seen).flatten(0, 1), count)


def test_what_was_seen_is_not_strange_and_what_was_not_is() -> None:
    seen = maps(3, 5, 6)
    known = remembered(seen)
    assert known(seen).shape == (3, 1, 6, 6)
    assert float(known(seen).max()) == pytest.approx(NEAR, rel=1e-2)
    changed = seen.clone()
    changed[1, :, 2, 2] += 20
    distance = known(changed)[1, 0]
    assert float(distance[1:4, 1:4].min()) > 1
    assert float(distance[5].max()) < 2 * NEAR


def test_no_more_is_remembered_than_asked_for() -> None:
    known = remembered(maps(3, 5, 6), 17)
    assert known.nearest.rows.shape == (17, 5)


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_stages_count_alike_and_together_as_much_as_told(deviation: float) -> None:
    fine, coarse = maps(4, 3, 8), 100 * maps(4, 6, 4, 1)
    strange = Strangeness((0, 2), [remembered(fine[:2], 20), remembered(coarse[:2], 20)])
    seen = [fine, maps(4, 9, 8), coarse]
    strange.settle(strange.distances(seen, (16, 16)), deviation)
    found = strange(seen, (16, 16))
    assert found.shape == (4, 16, 16)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std()) == pytest.approx(deviation, rel=1e-3)
    each = strange.weights[:, None, None] * strange.distances(seen, (16, 16))
    first, second = each.std((0, 2, 3)).tolist()
    assert first == pytest.approx(second, rel=1e-3)


def test_where_nothing_varies_it_says_nothing() -> None:
    flat = torch.ones(3, 4, 5, 5)
    strange = Strangeness((0,), [remembered(flat, 8)])
    strange.settle(strange.distances([flat], (5, 5)), 1.0)
    assert torch.isfinite(strange([flat], (5, 5))).all()
