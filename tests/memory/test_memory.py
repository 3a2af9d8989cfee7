"""The bank's parts against plain definitions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from blemish.errors import BudgetError
from blemish.memory.bank import Bank, BankScorer, row_bytes, rows_within, spread
from blemish.memory.coreset import k_centre, squared_norms
from blemish.memory.density import Places, place_statistics, published_density, represented_distance
from blemish.memory.neighbours import nearest_elsewhere, neighbours
from blemish.memory.patches import Rotation, neck_filters
from blemish.memory.scorers import Nearest
from blemish.memory.vectors import Vectors

EVERYTHING = 1 << 30


def vectors(rows: Tensor, images: int = 4, budget: int = EVERYTHING) -> Vectors:
    return Vectors.of(rows.tensor_split(images), budget)


def clustered(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, 8, generator=draw) * 4
    return centres[torch.randint(12, (count,), generator=draw)] + torch.randn(count, 8, generator=draw)


def plain_greedy(rows: Tensor, count: int, start: int) -> list[int]:
    taken = [start]
    nearest = torch.full((len(rows),), torch.inf)
    while len(taken) < count:
        nearest = torch.minimum(nearest, (rows - rows[taken[-1]]).square().sum(1))
        taken.append(int(nearest.argmax()))
    return taken


@pytest.mark.parametrize("seed", range(5))
def test_coreset_takes_the_rows_of_the_plain_loop(seed: int) -> None:
    rows = clustered(6000, seed)
    picked = k_centre(vectors(rows), 300, start=seed)
    assert set(picked.tolist()) == set(plain_greedy(rows, 300, seed))


def test_coreset_stops_when_only_repeats_are_left() -> None:
    rows = clustered(10).repeat(50, 1)
    picked = k_centre(vectors(rows), 200)
    assert len({tuple(row) for row in rows[picked].tolist()}) == len(picked) == 10


def test_a_small_budget_changes_nothing_but_the_place() -> None:
    rows = clustered(5000)
    in_memory, spilled = vectors(rows, 20), vectors(rows, 20, budget=3000 * 8 * 4)
    assert sum(isinstance(block, Tensor) for block in spilled.blocks) == 12
    assert torch.equal(k_centre(in_memory, 100), k_centre(spilled, 100))
    for ours, theirs in zip(in_memory.moments(), spilled.moments(), strict=True):
        assert torch.equal(ours, theirs)
    wanted = torch.tensor([4999, 0, 2500, 2501])
    assert torch.equal(spilled.rows(wanted), rows[wanted])
    turned = spilled.turned(lambda block: block * 2)
    assert torch.equal(torch.cat([block for _, block in turned]).sort(0).values, (rows * 2).sort(0).values)


def test_turning_keeps_the_order_of_images() -> None:
    rows = clustered(40)
    turned = vectors(rows).turned(lambda block: block + 1)
    assert torch.equal(torch.cat([block for _, block in turned]), rows + 1)


def test_without_one_image() -> None:
    rows = clustered(40)
    rest = vectors(rows).without(1)
    assert len(rest) == 30
    assert torch.equal(torch.cat([block for _, block in rest]), torch.cat((rows[:10], rows[20:])))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 99))
def test_neighbours_are_exact(count: int, wanted: int, seed: int) -> None:
    rows, queries = clustered(count, seed), clustered(30, seed + 1)
    wanted = min(wanted, count)
    distance, number = neighbours(queries, rows, wanted)
    all_of_them = (queries[:, None] - rows).square().sum(-1)
    expected = all_of_them.sort(1).values[:, :wanted]
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(all_of_them.gather(1, number), expected)


def test_nearest_elsewhere_leaves_the_own_image_out() -> None:
    rows = clustered(60)
    held = vectors(rows, 6)
    picked = torch.arange(0, 60, 3)
    sources = held.sources()[picked]
    distance, number = nearest_elsewhere(held, rows[picked], sources)
    apart = (rows[:, None] - rows[picked]).square().sum(-1)
    apart[held.sources()[:, None] == sources] = torch.inf
    torch.testing.assert_close(distance, apart.amin(1).sqrt(), rtol=1e-4, atol=1e-3)
    assert (held.sources() != sources[number]).all()


SEVEN = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [10, 0], [13, 0], [10, 4]])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1, 1, 1, 1, 9, 9, 16]),
        (2, [1, 1, 1, 1, 12.5, 17, 20.5]),
        (3, [4 / 3, 4 / 3, 4 / 3, 4 / 3, 106 / 3, 178 / 3, 131 / 3]),
    ],
)
def test_published_density_of_seven_points(count: int, expected: list[float]) -> None:
    for compat in (False, True):  # with whole numbers the norm trick is exact, and the two rules agree
        density = published_density(vectors(SEVEN, 3), torch.arange(7), 3, compat=compat)
        torch.testing.assert_close(density[:, count - 1], torch.tensor(expected).float())


def squared_scorer(rows: Tensor, density: Tensor) -> BankScorer:
    """A picture is one cell, so its score is that of the vector in it."""
    anywhere = Places(torch.zeros(1, 1), torch.ones(1, 1))
    bank = Bank(rows, torch.arange(len(rows)), density, density, anywhere)
    measure = Nearest(rows, squared=True)
    return BankScorer(nn.Identity(), Rotation(rows.shape[1]), bank, size=(8, 8), measure=measure)


@pytest.mark.parametrize(("count", "expected"), [(1, [3, -8]), (2, [3, -11.5]), (3, [8 / 3, -103 / 3])])
def test_density_is_taken_off_the_distance_to_the_nearest_of_seven_points(
    count: int, expected: list[float]
) -> None:
    density = published_density(vectors(SEVEN, 3), torch.arange(7), count)[:, -1]
    score, _, nearest = squared_scorer(SEVEN, density).score(torch.tensor([[[3.0, 0]], [[11, 0]]]))
    torch.testing.assert_close(score, torch.tensor(expected).float())
    assert nearest.tolist() == [1, 4]


def test_without_density_the_score_is_the_distance_to_the_nearest_row() -> None:
    rows, queries = clustered(200), clustered(50, 1)
    score, _, nearest = squared_scorer(rows, torch.zeros(200)).score(queries[:, None])
    distance, number = neighbours(queries, rows, 1)
    assert torch.equal(score, distance[:, 0])
    assert torch.equal(nearest, number[:, 0])


class Largest(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_published_density_of_more_rows_than_one_pass_takes() -> None:
    """Whole numbers make every sum exact: neither the definition nor a separate search may differ."""
    rows = torch.randint(-9, 10, (5000, 4), generator=torch.Generator().manual_seed(0)).float()
    held, picked = vectors(rows, 10), torch.arange(5000).flip(0)
    with Largest() as largest:
        density = published_density(held, picked, 5)
    assert largest.elements <= 4096 * (500 + 5)
    some = torch.arange(0, 5000, 61)
    apart = (rows[picked[some], None] - rows).square().sum(-1)
    apart[torch.arange(len(some)), picked[some]] = torch.inf
    nearest = apart.sort(1).values
    for count in range(1, 6):
        assert torch.equal(density[some, count - 1], nearest[:, :count].sum(1) / count)
        assert torch.equal(density[some, count - 1], published_density(held, picked[some], count)[:, -1])


def test_compatible_density_keeps_a_row_that_is_not_quite_0_from_itself() -> None:
    rows = F.pad(clustered(400), (0, 40)) + torch.rand(400, 48, generator=torch.Generator().manual_seed(0))
    rows[:100] = rows[:100].round()
    every = torch.arange(400)
    plain, compat = (published_density(vectors(rows), every, 5, compat=rule) for rule in (False, True))
    kept = compat[:, 0] < plain[:, 0]
    assert not kept[:100].any()
    assert kept[100:].any()
    assert torch.equal(compat[~kept], plain[~kept])
    assert (compat[kept, 0] < 1e-5 * squared_norms(rows[kept])).all()
    before = torch.arange(1, 5)
    expected = (compat[kept, :1] + plain[kept, :-1] * before) / (before + 1)
    torch.testing.assert_close(compat[kept, 1:], expected)


def test_published_density_counts_a_duplicate_as_a_neighbour() -> None:
    """Only the row itself is left out, by number; its twin is a neighbour at distance 0."""
    rows = torch.tensor([[0.0, 0], [0, 0], [3, 0]])
    assert published_density(vectors(rows, 1), torch.arange(3), 1)[:, 0].tolist() == [0, 0, 9]


def test_represented_distance_by_hand() -> None:
    # Two images; the bank holds the first one's three rows, and only the second one may choose among them.
    rows = torch.tensor([[0.0], [10], [20], [1], [-3], [12]])
    held = vectors(rows, 2)
    distance, answer = nearest_elsewhere(held, rows[:3], held.sources()[:3])
    density = represented_distance(distance, answer, rows[:3], 1)
    overall = (1 + 3 + 2) / 3
    torch.testing.assert_close(density, torch.tensor([(1 + 3 + overall) / 3, (2 + overall) / 2, overall]))


def test_places_that_are_always_rough_count_less() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(400, 64, generator=draw)
    scores[:, 32:] = 5 + 4 * scores[:, 32:]  # the lower half of an 8 × 8 grid
    places = place_statistics(scores, (8, 8))
    judged = (scores.reshape(-1, 8, 8) - places.mean) * places.scale
    assert judged[:, 1:3].mean() == pytest.approx(0, abs=0.1)
    assert judged[:, 5:7].mean() == pytest.approx(0, abs=0.1)
    ratio = float(judged[:, 5:7].std() / judged[:, 1:3].std())
    assert (
        1.8 < ratio < 2.4
    )  # halfway, on the scale of logarithms, between 4 and 1; the floor brakes a little


def test_places_all_alike_change_nothing_but_the_origin() -> None:
    draw = torch.Generator().manual_seed(0)
    places = place_statistics(torch.rand(4000, 64, generator=draw), (8, 8))
    assert places.scale.std() < 0.01
    assert places.mean.std() < 0.01


def unfolded_neck(maps: list[Tensor], width: int) -> Tensor:
    """REB's recipe as it is published: unfold, resample, adaptive means."""
    grid = maps[0].shape[-2:]
    stacked = []
    for tap in maps:
        count, channels, height, across = tap.shape
        patches = F.unfold(tap, 3, padding=1).reshape(count, channels * 9, height, across)
        patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
        flat = patches.flatten(2).transpose(1, 2).reshape(-1, 1, channels * 9)
        stacked.append(F.adaptive_avg_pool1d(flat, width))
    both = torch.cat(stacked, 1).reshape(-1, 1, 2 * width)
    return F.adaptive_avg_pool1d(both, width)[:, 0].reshape(maps[0].shape[0], -1, width)


@pytest.mark.parametrize(("channels", "width"), [((128, 256), 512), ((512, 1024), 1024), ((512, 512), 512)])
def test_neck_in_closed_form_is_the_published_recipe(channels: tuple[int, int], width: int) -> None:
    from blemish.memory.patches import RebNeck

    draw = torch.Generator().manual_seed(0)
    maps = [
        torch.rand(2, channels[0], 8, 8, generator=draw),
        torch.rand(2, channels[1], 4, 4, generator=draw),
    ]
    neck = RebNeck(channels)
    assert neck.width == width
    torch.testing.assert_close(
        neck(maps).flatten(2).transpose(1, 2), unfolded_neck(maps, width), rtol=0, atol=1e-5
    )


def test_neck_filters_of_resnet18_are_those_of_the_paper() -> None:
    first, second = neck_filters(128, 512)[:2, 0].flatten(1)
    assert torch.allclose(first * 6, torch.tensor([1.0, 1, 2, 1, 1, 0, 0, 0, 0]))
    assert torch.allclose(second * 6, torch.tensor([0.0, 0, 0, 0, 1, 1, 2, 1, 1]))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_rotation_scales_the_principal_axes(power: float) -> None:
    rows = clustered(4000) * torch.tensor([8.0, 4, 2, 1, 1, 1, 0.5, 0.25])
    mean, covariance = vectors(rows).moments()
    turned = Rotation.of(mean, covariance, power=power)(rows)
    spread_ = torch.cov(turned.T)
    variance = torch.linalg.eigvalsh(covariance).flip(0).float()
    expected = variance ** (1 - power)
    torch.testing.assert_close(
        spread_.diagonal() / spread_.trace(), expected / expected.sum(), rtol=0.02, atol=1e-4
    )
    assert spread_.trace() == pytest.approx(1, rel=0.01)
    if power == 0:  # distances are kept, but for one factor
        ours, theirs = torch.pdist(turned[:50]), torch.pdist(rows[:50])
        torch.testing.assert_close(ours / ours.mean(), theirs / theirs.mean(), rtol=1e-4, atol=1e-4)


def test_rotation_survives_directions_without_any_variance() -> None:
    rows = F.pad(clustered(100), (0, 2))
    turned = Rotation.of(*vectors(rows).moments(), power=1.0)(rows)
    assert turned.isfinite().all()


def test_map_is_bilinear_enlargement_and_blur() -> None:
    places = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = spread(32, 256) @ places[0, 0] @ spread(32, 256).T
    large = F.interpolate(places, size=256, mode="bilinear", align_corners=False)
    kernel = torch.exp(-0.5 * (torch.arange(-16, 17) / 4.0) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    large = F.conv2d(F.pad(large, (16, 16, 0, 0), mode="reflect"), kernel)
    large = F.conv2d(F.pad(large, (0, 0, 16, 16), mode="reflect"), kernel.transpose(2, 3))
    torch.testing.assert_close(ours, large[0, 0], rtol=1e-5, atol=1e-5)


def test_bank_budget() -> None:
    assert rows_within(8, 152, 4096) == 4096
    assert rows_within(1, 152, 4096) * row_bytes(152) <= 1e6
    with pytest.raises(BudgetError, match="raise --bank-mb to at least"):
        rows_within(0.0001, 152, 4096)


@pytest.mark.parametrize("change", [lambda rows: rows * torch.nan, lambda rows: rows / 0])
def test_vectors_refuse_what_is_no_number(change: Callable[[Tensor], Tensor]) -> None:
    from blemish.errors import DataError

    with pytest.raises(DataError, match="not numbers"):
        vectors(change(clustered(10)))


def test_moments_match_numpy() -> None:
    rows = clustered(500)
    mean, covariance = vectors(rows).moments()
    np.testing.assert_allclose(mean, rows.double().numpy().mean(0))
    np.testing.assert_allclose(covariance, np.cov(rows.double().numpy().T, bias=True), atol=1e-12)
