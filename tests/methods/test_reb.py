"""REB's scorers, the choice of alpha, and the scorer of the paper."""

import numpy as np
import pytest
import torch
from torch import nn

from blemish.memory.bank import Bank, BankScorer
from blemish.memory.density import Places
from blemish.memory.patches import Rotation
from blemish.methods import create
from blemish.methods.reb import ALPHAS, USUAL, Met, jackknife
from tests.methods.product import (
    PLAIN,
    SIDE,
    TRAINED,
    backbone_in,
    changed,
    datasets,
    fit,
    marked,
    pictures,
    run_for,
)


@pytest.mark.parametrize("scorer", ["ldknn", "knn", "kthnn", "kdist_ratio", "lof", "ldof", "gde"])
def test_every_scorer_ships_and_tells_a_mark(scorer: str, small: dict[str, str]) -> None:
    model = fit(options={**PLAIN, "scorer": scorer}, **small)
    assert model.manifest["parity"]["score"] <= 1e-4
    assert model.manifest["config"]["scorer"] == scorer
    result = model.inspect(marked(pictures(1)[0]))
    assert result.score > max(model.calibration.scores)
    row, column = np.unravel_index(result.map.argmax(), result.map.shape)
    assert 10 <= row < 38
    assert 10 <= column < 38


@pytest.mark.parametrize("density", ["represented", "paper"])
def test_without_density_and_places_it_is_the_method_knn(density: str, small: dict[str, str]) -> None:
    options = {"rows": 64, "alpha": 0.0, "map_alpha": 0.0, "places": False, "density": density}
    ours, plain = fit(options=options, **small), fit(method="knn", options={"rows": 64}, **small)
    assert ours.archive.graph == plain.archive.graph
    assert ours.archive.weights == plain.archive.weights
    assert ours.calibration == plain.calibration


def test_a_map_may_jump_where_a_score_does_not(small: dict[str, str]) -> None:
    plain = {"rows": 64, "alpha": 0.0, "places": False}
    for map_alpha, allowed in ((0.25, 1e-2), (0.0, 1e-4)):
        parity = fit(options={**plain, "map_alpha": map_alpha}, **small).manifest["parity"]
        assert parity["allowed"] == {"score": 1e-4, "map": allowed}


def test_alpha_is_chosen_on_painted_defects_and_told(small: dict[str, str]) -> None:
    chosen = fit(options={**PLAIN, "alpha": "auto"}, **small)
    facts = chosen.manifest["facts"]
    table = {float(alpha): share for alpha, share in facts["alpha_auroc"].items()}
    assert tuple(table) == ALPHAS
    assert all(0.5 < share <= 1 for share in table.values())
    usual = USUAL if table[USUAL] >= table[0.0] else 0.0
    assert facts["alpha"] == usual or table[facts["alpha"]] == max(table.values())
    assert facts["alpha_why"]
    assert chosen.manifest["config"]["alpha"] == "auto"
    stated = fit(options={**PLAIN, "alpha": facts["alpha"]}, **small)
    assert stated.archive.graph == chosen.archive.graph
    assert stated.calibration == chosen.calibration
    assert "alpha_auroc" not in stated.manifest["facts"]


def met(*cells: tuple[float, int]) -> Met:
    """Pictures of one cell, each at a distance from a row."""
    distance, answer = zip(*cells, strict=True)
    return Met(torch.tensor(distance), torch.tensor(answer))


NOISE = np.random.default_rng(0).uniform(0, 1, (3, 40)).tolist()
LOOSE, TIGHT = 0, 1
"""Good pictures lie 5 away from the one row, and next to the other."""
CHOICES: dict[str, tuple[float, Met, Met, float, str]] = {
    "density explains the good": (
        5.0,
        met(*((5 + n, LOOSE) for n in NOISE[0]), *((1 + n, TIGHT) for n in NOISE[1])),
        met(*((2 + n, TIGHT) for n in NOISE[2])),
        1.0,
        "tells painted from good images best",
    ),
    "density misleads": (
        5.0,
        met(*((n, LOOSE) for n in NOISE[0]), *((n, TIGHT) for n in NOISE[1])),
        met(*((1 + n, LOOSE) for n in NOISE[2])),
        0.0,
        "better than 0 by more than chance",
    ),
    "density is nothing": (
        0.0,
        met(*((n, LOOSE) for n in NOISE[0])),
        met(*((0.5 + n, TIGHT) for n in NOISE[2])),
        USUAL,
        "better than 0.5 by more than chance",
    ),
    "one pair of pictures is better off": (
        4.0,
        met((5.0, LOOSE), *((n, TIGHT) for n in NOISE[0])),
        met((2.0, TIGHT), *((10 + n, TIGHT) for n in NOISE[1])),
        USUAL,
        "better than 0.5 by more than chance",
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_half_of_the_density_or_none_unless_another_share_is_better_by_more_than_chance(case: str) -> None:
    apart, clean, painted, alpha, why = CHOICES[case]
    method = create("reb", options={"places": False})
    zero = torch.zeros(2)
    bank = Bank(torch.eye(2), zero, zero, zero, Places(torch.zeros(1, 1), torch.ones(1, 1)))
    numbers = torch.arange(len(painted.distance)) % len(clean.distance)
    assert method.choose_alpha(bank, torch.tensor([apart, 0.0]), clean, painted, numbers) == alpha
    facts = method.facts()
    assert facts["alpha"] == alpha
    assert facts["alpha_why"].endswith(why)
    good = [(d - 0.75 * (apart if r == LOOSE else 0)) for d, r in zip(*clean, strict=True) if d < torch.inf]
    bad = [(d - 0.75 * (apart if r == LOOSE else 0)) for d, r in zip(*painted, strict=True)]
    won = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
    assert facts["alpha_auroc"]["0.75"] == pytest.approx(won, abs=1e-4)


def test_the_jackknife_leaves_out_a_picture_and_what_was_painted_on_it() -> None:
    rng = np.random.default_rng(3)
    gains, numbers = rng.normal(size=(7, 5)), np.array([0, 1, 2, 3, 4, 0, 1])
    left = [gains[numbers != k][:, np.arange(5) != k].mean() for k in range(5)]
    found = jackknife(torch.from_numpy(gains).float(), torch.from_numpy(numbers))
    assert float(found) == pytest.approx(np.sqrt(0.8 * np.sum((left - np.mean(left)) ** 2)), rel=1e-5)


def test_the_papers_scorer_is_its_definition() -> None:
    """Every vector is remembered; the density is the mean of squared distances to the nine nearest of all."""
    samples = datasets(pictures(4))
    run = run_for(samples)
    method = create("reb", "paper", {"updates": 0})
    scorer = method.fit(samples, run).eval()
    rows = scorer.measure.rows
    cells = rows.shape[0] // 4
    assert method.facts()["bank_rows"] == method.facts()["good_vectors"] == 4 * cells
    assert scorer.sources.tolist() == [number for number in range(4) for _ in range(cells)]
    apart = (rows[:, None] - rows).double().square().sum(-1)
    density = apart.fill_diagonal_(torch.inf).sort(1).values[:, :9].mean(1).float()
    torch.testing.assert_close(scorer.density, density, rtol=1e-4, atol=1e-6)
    assert torch.equal(scorer.map_density, scorer.density)

    batch = torch.from_numpy(run.pixels(datasets([marked(pictures(1)[0]), pictures(5)[4]])))
    with torch.no_grad():
        score, _, nearest = scorer(batch)
        vectors = scorer.rotation(scorer.patches(batch))
    found = (vectors[:, :, None] - rows).square().sum(-1).min(2)
    cell = (found.values - density[found.indices]).reshape(2, *scorer.grid)
    side = scorer.grid[0] // 3 * 3
    blocks = cell[:, :side, :side].reshape(2, side // 3, 3, side // 3, 3).mean((2, 4))
    torch.testing.assert_close(score, blocks.amax((1, 2)), rtol=1e-3, atol=1e-4)
    worst = found.indices[range(2), cell.flatten(1).argmax(1)] // cells
    assert nearest.tolist() == worst.tolist()


def test_all_vectors_stay_unless_the_budget_says_less(small: dict[str, str]) -> None:
    everything = fit(options={"rows": 0, "alpha": 0.5}, **small).manifest["facts"]
    assert everything["bank_rows"] == everything["good_vectors"] == 5 * (SIDE // 8) ** 2
    bounded = fit(bank_mb=0.01, options={"rows": 0, "alpha": 0.5}, **small).manifest["facts"]
    assert bounded["bank_rows"] == 10_000 // (4 * (bounded["width"] + 2) + 8)


def test_the_slips_of_the_published_code_can_be_had(small: dict[str, str]) -> None:
    options = {**TRAINED, "density": "paper", "squared": True, "stride": "3"}
    plain, compat = (fit(options={**options, "compat": compat}, **small) for compat in (False, True))
    assert changed(backbone_in(plain), backbone_in(compat))
    assert compat.manifest["config"]["compat"] is True


@pytest.mark.parametrize(("stride", "seen"), [(3, False), (1, True)])
def test_with_the_papers_stride_the_last_row_never_counts(stride: int, seen: bool) -> None:
    grid = Places(torch.zeros(32, 32), torch.ones(32, 32))
    bank = Bank(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2), torch.zeros(2), grid)
    scorer = BankScorer(nn.Identity(), Rotation(1), bank, size=(256, 256), stride=stride)
    quiet = torch.rand(1, 1024, 1, generator=torch.Generator().manual_seed(0))
    spike = quiet.clone()
    spike.view(32, 32)[31, 10] = 99
    assert (scorer.score(spike)[0] > scorer.score(quiet)[0] + 9).item() is seen
    assert scorer.score(spike)[1].amax() > 9  # the map shows it either way
    if not seen:
        assert torch.equal(scorer.score(spike)[0], scorer.score(quiet)[0])
