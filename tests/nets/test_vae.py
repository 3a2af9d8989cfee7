"""The generator of feature maps, and what keeps what it makes near real ones."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blemish.nets.vae import (
    SHRUNK,
    SURE,
    TRUNCATED,
    ConditionalVAE,
    Real,
    Synthesis,
    lacking,
    least_alike,
    looked_at,
    truncated,
    warmed,
)

GRID = (6, 5)
WIDTH = 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(channels: int = 6, grid: tuple[int, int] = GRID, seed: int = 0) -> ConditionalVAE:
    torch.manual_seed(seed)
    return ConditionalVAE(channels, grid, WIDTH, width=16, latent=8)


def table(classes: int = 3) -> Tensor:
    return F.normalize(torch.randn(classes, WIDTH, generator=seeded(7)), dim=1)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_any_channels_on_any_grid(channels: int, rows: int, columns: int) -> None:
    net, maps = network(channels, (rows, columns)), torch.randn(2, channels, rows, columns)
    mean, log_variance = net.encode(maps, table(2))
    assert mean.shape == log_variance.shape == (2, 8)
    assert net.decode(mean, table(2)).shape == maps.shape
    loss = net.loss(maps, table(2), torch.randn(2, 8))
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert all(weight.grad is not None for weight in net.parameters())


def test_sizes_are_those_of_the_specification() -> None:
    net = ConditionalVAE(1024, (14, 14), 640)
    assert net.sizes == ((4, 4), (7, 7), (14, 14))
    assert net.found.in_features == 2048 + 128
    assert (net.start.in_features, net.start.out_features) == (256, 4 * 4 * 128)


def test_the_loss_is_that_of_its_definition() -> None:
    net, maps, noise = network(), torch.randn(4, 6, *GRID), torch.randn(4, 8, generator=seeded(3))
    condition = table(4)
    with torch.no_grad():
        mean, log_variance = net.encode(maps, condition)
        rebuilt = net.decode(mean + noise * log_variance.exp().sqrt(), condition)
        usual = torch.distributions.Normal(0.0, 1.0)
        own = torch.distributions.Normal(mean, log_variance.exp().sqrt())
        divergence = torch.distributions.kl_divergence(own, usual).sum(1).mean()
        expected = (maps - rebuilt).square().sum((1, 2, 3)).mean() / (6 * 30) + 0.3 * divergence
        assert net.loss(maps, condition, noise, 0.3).item() == pytest.approx(expected.item(), rel=1e-5)


def test_warm_up_is_linear_over_a_fifth() -> None:
    rates = [warmed(1e-3, update, 100) for update in (1, 10, 20, 21, 100)]
    assert rates == pytest.approx([5e-5, 5e-4, 1e-3, 1e-3, 1e-3])
    assert warmed(1e-3, 1, 1) == 1e-3


def test_gradients_reach_the_names() -> None:
    names = table().requires_grad_()
    maps, classes = torch.randn(6, 6, *GRID), torch.arange(6) % 3
    network().loss(maps, names[classes], torch.zeros(6, 8)).backward()
    assert names.grad is not None
    assert (names.grad.norm(dim=1) > 0).all()


def test_it_learns_what_its_class_looks_like() -> None:
    net, names, draws = network(), table(2), seeded()
    looks = torch.randn(2, 6, *GRID, generator=draws)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(150):
        classes = torch.randint(2, (16,), generator=draws)
        maps = looks[classes] * (1 + 0.3 * torch.randn(16, 1, 1, 1, generator=draws))
        loss = net.loss(maps, names[classes], torch.randn(16, 8, generator=draws))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        made = net.decode(torch.randn(40, 8, generator=draws), names[torch.arange(40) % 2])
    for klass in range(2):
        off = (made[klass::2].mean(0) - looks[klass]).square().mean() / looks[klass].square().mean()
        assert off < 0.4
        assert (made[klass::2].mean(0) - looks[1 - klass]).square().mean() > (
            looks[0] - looks[1]
        ).square().mean() / 2


COUNTS = [30, 8, 3]


def maps_of_classes() -> tuple[Tensor, Tensor]:
    """Classes of different means, with few pictures of the last."""
    classes = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    means = 2 * torch.randn(3, 6, 1, 1, generator=seeded(5))
    spread = torch.tensor([1.0, 0.5, 0.2])[classes, None, None, None]
    return means[classes] + spread * torch.randn(len(classes), 6, *GRID, generator=seeded(6)), classes


def synthesis(**changes: Tensor) -> Synthesis:
    maps, classes = maps_of_classes()
    net = network().eval()
    real = looked_at(net, table(), zip(maps.split(7), classes.split(7), strict=True), torch.tensor(COUNTS))
    return Synthesis(net, table(), real._replace(**changes))


def test_what_is_known_of_real_maps() -> None:
    maps, classes = maps_of_classes()
    net = network().eval()
    real = looked_at(net, table(), zip(maps.split(7), classes.split(7), strict=True), torch.tensor(COUNTS))
    vectors = [
        maps[classes == klass].double().numpy().transpose(1, 0, 2, 3).reshape(6, -1) for klass in range(3)
    ]
    np.testing.assert_allclose(real.means, [each.mean(1) for each in vectors], rtol=1e-4, atol=1e-5)
    own = np.array([each.std(1) for each in vectors])
    weight = np.array(COUNTS)[:, None] / (np.array(COUNTS)[:, None] + SHRUNK)
    expected = weight * own + (1 - weight) * np.sqrt((own**2).mean(0))
    np.testing.assert_allclose(real.deviations, expected, rtol=1e-4)
    head = maps[classes == 0]  # the one class of more pictures than the mean of all
    with torch.no_grad():
        condition = table()[:1].expand(len(head), -1)
        off = (head - net.decode(net.encode(head, condition)[0], condition)).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(real.residual, off, rtol=1e-4, atol=1e-5)
    assert [len(each) for each in real.pooled] == COUNTS
    assert real.least[2] == -1, "three pictures do not tell how alike a class is"
    assert (real.least[:2] > 0).all()


def test_refused_is_what_is_less_alike_than_nearly_all_real_ones() -> None:
    looks = F.normalize(torch.randn(50, 9, generator=seeded()) + 2, dim=1)
    nearest = [max(float(a @ b) for m, b in enumerate(looks) if m != n) for n, a in enumerate(looks)]
    assert least_alike(looks) == pytest.approx(np.quantile(nearest, 0.01), rel=1e-5)
    assert least_alike(looks[: SURE - 1]) == -1


def test_made_maps_have_the_moments_of_their_class() -> None:
    made = synthesis(least=torch.full((3,), -1.0))
    for klass in range(3):
        maps, _ = made.draw(torch.full((400,), klass), seeded(1))
        mean, deviation = maps.mean((0, 2, 3)), maps.std((0, 2, 3))
        torch.testing.assert_close(deviation, made.real.deviations[klass], rtol=0.1, atol=0)
        off = (mean - made.real.means[klass]).abs() / made.real.deviations[klass]
        assert off.max() < 0.2


def test_made_maps_are_as_rough_as_real_ones() -> None:
    smooth, rough = synthesis(residual=torch.zeros(6)), synthesis()

    def roughness(made: Synthesis) -> float:
        maps = made.made(torch.zeros(50).long(), seeded())
        return float((maps[..., 1:] - maps[..., :-1]).square().mean() / maps.var())

    assert roughness(rough) > 2 * roughness(smooth)


def test_maps_unlike_every_real_one_are_drawn_again() -> None:
    classes = torch.zeros(64).long()
    free = synthesis(least=torch.full((3,), -1.0))
    maps, all_like = free.draw(classes, seeded())
    alike = free.likeness(maps, classes)
    median = float(alike.median())
    strict = synthesis(least=torch.full((3,), median))
    maps, like = strict.draw(classes, seeded())
    found = strict.likeness(maps, classes)
    refused = [float((each < median).float().mean()) for each in (alike, found)]
    assert refused[0] == pytest.approx(0.5, abs=0.02)
    assert refused[1] == pytest.approx(0.5**4, abs=0.06)
    assert all_like.all()
    assert torch.equal(like, found >= median), "what was never like a real one is told"
    assert (found >= alike - 1e-6).all(), "the best of several tries is kept"


def test_what_makes_maps_stays_where_it_is() -> None:
    """The network goes to the device that learns; maps are made beside it."""
    vae = ConditionalVAE(4, (3, 3), 2, width=8, latent=3)
    maps = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    synthesis = Synthesis.of(vae, torch.eye(2), [(maps, torch.tensor([0, 0, 0, 1, 1, 1]))], [3, 3])
    vae.to("meta")
    maps, _ = synthesis.draw(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert maps.isfinite().all()


def test_one_seed_one_map() -> None:
    made, classes = synthesis(), torch.tensor([2, 0, 1, 2])
    first, _ = made.draw(classes, seeded(4))
    assert torch.equal(first, made.draw(classes, seeded(4))[0])
    assert torch.equal(first, synthesis().draw(classes, seeded(4))[0])
    assert not torch.equal(first, made.draw(classes, seeded(5))[0])


@given(st.integers(0, 30), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_latent_vectors_stay_within_two_deviations(count: int, width: int, seed: int) -> None:
    drawn = truncated(count, width, seeded(seed))
    assert drawn.shape == (count, width)
    assert (drawn.abs() <= TRUNCATED).all()


def test_truncation_is_that_of_a_normal_distribution() -> None:
    drawn = truncated(400, 100, seeded())
    phi = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * 2 * phi / math.erf(2 / math.sqrt(2))
    assert drawn.var().item() == pytest.approx(variance, rel=0.02)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12))
def test_a_class_is_made_by_what_it_lacks(counts: list[int]) -> None:
    shares = lacking(counts)
    if len(set(counts)) == 1:
        assert shares is None
        return
    assert shares is not None
    assert shares.sum().item() == pytest.approx(1, rel=1e-4)
    expected = np.array([max(counts) - count for count in counts])
    np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-4)


def test_the_networks_state_is_not_the_processs(recwarn: pytest.WarningsRecorder) -> None:
    made = synthesis()
    before = torch.random.get_rng_state()
    made.draw(torch.tensor([0, 1]), seeded())
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(made.real, Real)
    assert not made.draw(torch.tensor([0]), seeded())[0].requires_grad
