"""Patches among texts, and pseudo-anomalies."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blemish.nets.runtime import export
from blemish.nets.semantic import (
    AREA,
    COLDEST,
    HOTTEST,
    NOISE,
    Level,
    Semantic,
    blobs,
    donors,
    pseudo_anomalies,
    semantic_loss,
)
from blemish.nets.space import Seen

GRID = (9, 12)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(classes: int = 3, width: int = 8) -> tuple[Tensor, Tensor]:
    both = F.normalize(torch.randn(2, classes, width, generator=seeded(2)), dim=2)
    return both[0], both[1]


def test_odds_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    net = Semantic(torch.ones(6), 8, own=8)
    with torch.no_grad():
        net.project.weight.normal_()
        net.project.bias.normal_()
        assert net.own is not None
        net.own.weight.add_(0.3 * torch.randn(8, 8))
    maps, patches = torch.randn(2, 6, *GRID), torch.randn(2, 8, *GRID)
    normal, abnormal = texts()
    odds = net(maps, normal, abnormal, patches).detach()
    assert odds.shape == (2, 3, *GRID)
    w = {name: value.double().numpy() for name, value in net.state_dict().items()}
    for n, k, y, x in ((0, 0, 0, 0), (1, 2, 8, 11), (0, 1, 4, 7)):
        p, u = maps[n, :, y, x].double().numpy(), patches[n, :, y, x].double().numpy()
        g = w["own.weight"] @ u + w["project.weight"] @ p + w["project.bias"]
        g /= np.linalg.norm(g)
        near = [math.exp(g @ text[k].double().numpy() / 0.07) for text in (abnormal, normal)]
        share = near[0] / sum(near)
        assert torch.sigmoid(odds[n, k, y, x]).item() == pytest.approx(share, rel=1e-4)


def test_it_starts_as_the_models_own_patches() -> None:
    maps, patches = torch.randn(2, 6, *GRID), torch.randn(2, 8, *GRID)
    found = Semantic(torch.ones(6), 8, own=8).embed(maps, patches).detach()
    torch.testing.assert_close(found, F.normalize(patches.permute(0, 2, 3, 1), dim=3))
    start = torch.randn(8, 5)
    found = Semantic(torch.ones(6), 8, own=5, start=start).embed(maps, patches[:, :5]).detach()
    expected = F.normalize(torch.einsum("to,nohw->nhwt", start, patches[:, :5]), dim=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [0, 5])
def test_without_a_language_it_starts_as_the_first_channels(hidden: int) -> None:
    maps, deviations = torch.randn(2, 6, *GRID), torch.tensor([1.0, 2, 0.5, 1, 3, 1])
    seen = maps / deviations[:, None, None]
    if not hidden:  # the norm takes away how far off a patch is, which a linear projection cannot use
        seen = (seen - seen.mean(1, keepdim=True)) / (seen.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = F.normalize(seen[:, :4], dim=1).permute(0, 2, 3, 1)
    found = Semantic(deviations, 4, hidden=hidden).embed(maps).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_projection_and_the_temperature_learn() -> None:
    def learning(net: Semantic) -> set[str]:
        return {name for name, weight in net.named_parameters() if weight.requires_grad}

    linear = {"project.weight", "project.bias", "temperature"}
    assert learning(Semantic(torch.ones(6), 8, own=8)) == linear | {"own.weight"}
    assert learning(Semantic(torch.ones(6), 8)) == linear | {"norm.weight", "norm.bias"}
    bend = {f"bend.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert learning(Semantic(torch.ones(6), 8, hidden=3)) == linear | bend


@pytest.mark.parametrize(
    ("given_temperature", "used"), [(0.07, 0.07), (1e-4, COLDEST), (-1, COLDEST), (9, HOTTEST)]
)
def test_the_temperature_stays_within_bounds(given_temperature: float, used: float) -> None:
    net, (normal, abnormal) = Semantic(torch.ones(8), 8), texts()
    maps = torch.randn(1, 8, *GRID)
    with torch.no_grad():
        net.temperature.fill_(given_temperature)
        expected = torch.einsum("nhwc,kc->nkhw", net.embed(maps), abnormal - normal) / used
        torch.testing.assert_close(net(maps, normal, abnormal), expected, rtol=1e-4, atol=1e-4)


def test_the_image_level_says_the_same_of_every_patch() -> None:
    torch.manual_seed(0)
    net, (normal, abnormal) = Semantic(torch.ones(8), 8, own=8, level="image"), texts()
    maps, patches = torch.randn(2, 8, *GRID), torch.randn(2, 8, *GRID)
    odds = net(maps, normal, abnormal, patches).detach()
    assert odds.shape == (2, 3, *GRID)
    assert torch.equal(odds, odds[..., :1, :1].expand_as(odds))
    pooled = F.normalize(patches.mean((2, 3)), dim=1)
    torch.testing.assert_close(odds[..., 0, 0], pooled @ (abnormal - normal).T / 0.07, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_the_loss_weighs_both_sides_alike(seed: int) -> None:
    odds = 3 * torch.randn(2, *GRID, generator=seeded(seed))
    where = (torch.rand(2, *GRID, generator=seeded(seed + 1)) < 0.1).float()
    share = odds.double().sigmoid().numpy()
    each = {
        label: -(wanted * np.log(share) + (1 - wanted) * np.log(1 - share))
        for label, wanted in ((0.0, 0.025), (1.0, 0.975))
    }
    expected = sum(each[label][where.numpy() == label].mean() for label in (0.0, 1.0))
    assert semantic_loss(odds, where).item() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(semantic_loss(odds, torch.zeros_like(where)))


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_blobs_cover_some_of_the_grid(rows: int, columns: int, seed: int) -> None:
    found = blobs(12, (rows, columns), seeded(seed))
    assert found.shape == (12, rows, columns)
    cells = found.flatten(1).sum(1) / (rows * columns)
    assert (cells >= min(AREA[0], 1 / (rows * columns)) - 1e-9).all()
    assert (cells <= AREA[1] + 0.5 / (rows * columns) + 1e-9).all()
    assert torch.equal(found, blobs(12, (rows, columns), seeded(seed)))


def test_blobs_hang_together() -> None:
    found = blobs(200, (16, 16), seeded()).float()
    share = found.mean()
    beside = (found[:, 1:] * found[:, :-1]).mean() / found[:, 1:].mean()
    assert beside > share + 0.4, "the neighbour of an abnormal patch mostly is one"
    assert found.mean(0).min() > 0, "anywhere"


def test_patches_are_given_by_pictures_of_other_classes() -> None:
    classes = torch.tensor([0, 0, 1, 2, 2, 2] * 20)
    source = donors(classes, seeded())
    assert (classes[source] != classes).all()
    assert len(set(source.tolist())) > 40
    assert donors(torch.zeros(9), seeded()).tolist() == list(range(9))
    alone = torch.randn(40, 4, *GRID, generator=seeded(1))
    made = pseudo_anomalies(Seen(alone), torch.zeros(40), seeded())
    changed = (made.seen.maps != alone).any(1)
    assert torch.equal(changed, made.where > 0), "where there is no other class, there is noise instead"


def test_pseudo_anomalies_are_of_three_kinds_and_within_their_blobs() -> None:
    count, channels = 300, 5
    classes = torch.arange(count) % 4
    maps = torch.randn(count, channels, *GRID, generator=seeded(3)) + classes[:, None, None, None]
    patches = torch.randn(count, 7, *GRID, generator=seeded(4))
    made = pseudo_anomalies(Seen(maps, patches), classes, seeded(), rebuilt=True)
    assert made.seen.patches is not None
    outside = made.where == 0
    for before, after in ((maps, made.seen.maps), (patches, made.seen.patches)):
        assert torch.equal(before.movedim(1, 3)[outside], after.movedim(1, 3)[outside])
    pushed = made.push > 0
    assert pushed.float().mean().item() == pytest.approx(0.2, abs=0.07)
    assert made.push[pushed].min() >= 1
    assert made.push.max() <= 4
    missed = torch.randn(count, 3, *GRID, generator=seeded(5))
    moved = made.pushed(missed).maps
    where = made.where[:, None]
    expected = maps[:, :3] + made.push[:, None, None, None] * where * missed
    torch.testing.assert_close(moved[pushed, :3], expected[pushed])
    assert torch.equal(moved[pushed, 3:], maps[pushed, 3:]), "what is not rebuilt stays"
    assert torch.equal(moved[~pushed], made.seen.maps[~pushed])
    assert made.pushed(None) is made.seen
    # Of the rest some patches are those of another picture or place, and all others noisy.
    known = {tuple(vector) for vector in maps.movedim(1, 3).reshape(-1, channels).tolist()}
    changed = [made.seen.maps[n][:, made.where[n] > 0].T.tolist() for n in range(count)]
    foreign = torch.tensor([all(tuple(vector) in known for vector in some) for some in changed]) & ~pushed
    assert foreign.float().mean().item() == pytest.approx(0.3, abs=0.08)
    noisy = ~foreign & ~pushed
    inside = made.where[noisy] > 0
    length = (made.seen.maps - maps)[noisy].norm(dim=1)[inside] / maps[noisy].norm(dim=1)[inside]
    assert NOISE[0] * 0.1 < length.min() < length.max() < NOISE[1] * 2.5
    middle = math.sqrt(NOISE[0] * NOISE[1])
    assert length.median().item() == pytest.approx(middle, rel=0.4)
    own = (made.seen.patches - patches).norm(dim=1) / patches.norm(dim=1)
    assert (own[pushed][made.where[pushed] > 0] > 0).all(), "nobody rebuilds the model's patches"


def test_without_a_reconstruction_nothing_is_pushed() -> None:
    maps, classes = torch.randn(50, 4, *GRID, generator=seeded(1)), torch.arange(50) % 2
    made = pseudo_anomalies(Seen(maps), classes, seeded())
    assert not made.push.any()
    assert made.seen.patches is None
    assert (made.seen.maps != maps).any(1).flatten(1).any(1).all()
    again = pseudo_anomalies(Seen(maps), classes, seeded())
    assert torch.equal(made.seen.maps, again.seen.maps)
    other = pseudo_anomalies(Seen(maps), classes, seeded(1))
    assert not torch.equal(made.seen.maps, other.seen.maps)


MIXING = torch.randn(12, 4, generator=seeded(20))
MEANS = 3 * torch.randn(2, 12, 1, 1, generator=seeded(21))


def good(count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps of two classes whose twelve channels vary together."""
    classes = torch.randint(2, (count,), generator=draws)
    maps = torch.einsum("ck,nkhw->nchw", MIXING, torch.randn(count, 4, 8, 8, generator=draws))
    return MEANS[classes] + 0.3 * maps + 0.05 * torch.randn(maps.shape, generator=draws), classes


def apart(odds: Tensor, where: Tensor) -> float:
    """How often an abnormal patch has higher odds than a normal one."""
    ranks = odds.flatten().argsort().argsort().double() + 1
    wrong = where.flatten() > 0
    count = int(wrong.sum())
    return float((ranks[wrong].sum() - count * (count + 1) / 2) / (count * int((~wrong).sum())))


def test_it_learns_to_tell_them() -> None:
    torch.manual_seed(0)
    draws, (normal, abnormal) = seeded(), texts(2)
    net = Semantic(torch.full((12,), 0.6), 8, hidden=32)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(120):
        maps, classes = good(8, draws)
        made = pseudo_anomalies(Seen(maps), classes, draws)
        odds = net(made.seen.maps, normal, abnormal)[torch.arange(8), classes]
        loss = semantic_loss(odds, made.where)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    maps, classes = good(32, draws)
    made = pseudo_anomalies(Seen(maps), classes, draws)
    with torch.no_grad():
        odds = net(made.seen.maps, normal, abnormal)[torch.arange(32), classes]
    assert apart(odds, made.where) > 0.75


class Asked(nn.Module):
    def __init__(self, kind: Level) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Semantic(torch.ones(12), 8, level=kind, hidden=4)
        self.normal, self.abnormal = (nn.Parameter(text, False) for text in texts(2))

    def forward(self, maps: Tensor) -> Tensor:
        return self.net(maps, self.normal, self.abnormal)


@pytest.mark.parametrize("kind", ["patch", "image"])
def test_it_exports(kind: Level) -> None:
    net = Asked(kind).eval()
    session = onnxruntime.InferenceSession(
        export(net, 12, GRID, ["odds"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 4):
        maps = torch.randn(count, 12, *GRID)
        with torch.no_grad():
            expected = net(maps)
        [found] = session.run(None, {"pixels": maps.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
