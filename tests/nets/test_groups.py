"""The classifier in closed form: what it compares with, and how far off a patch is."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.distillation import Moments
from blemish.nets.groups import BORROWED, FLOOR, MOST, NEAR, PATCHES, Groups, Lite
from blemish.nets.runtime import export
from blemish.nets.semantic import pseudo_anomalies
from blemish.nets.space import Seen
from tests.nets.test_semantic import apart, good, seeded


def closed_form() -> Lite:
    maps, classes = good(200, seeded(8))
    return Lite.of([Moments.of([x] for x in maps[classes == klass])[0] for klass in range(2)], [100, 10])


def test_the_closed_form_tells_them_too() -> None:
    net = closed_form()
    maps, classes = good(32, seeded(10))
    made = pseudo_anomalies(Seen(maps), classes, seeded(11))
    shares = F.one_hot(classes).float()
    assert apart(net(made.seen.maps, shares), made.where) > 0.8
    assert apart(net(made.seen.maps, 1 - shares), made.where) < 0.7, "as patches of another class"
    assert not any(weight.requires_grad for weight in net.parameters())


def test_the_closed_form_is_a_mahalanobis_distance() -> None:
    maps, classes = good(400, seeded(8))
    vectors = [np.moveaxis(maps[classes == k].double().numpy(), 1, -1).reshape(-1, 12) for k in range(2)]
    usual = [Moments.of([x] for x in maps[classes == klass])[0] for klass in range(2)]
    net, new = Lite.of(usual, [100_000, 100_000]), good(3, seeded(12))
    far = net(new[0], F.one_hot(new[1], 2).float())
    for n, y, x in ((0, 0, 0), (1, 7, 3), (2, 4, 4)):
        own = vectors[int(new[1][n])]
        covariance = np.cov(own.T, ddof=0)
        covariance += FLOOR * covariance.diagonal().mean() * np.eye(12)
        off = new[0][n, :, y, x].double().numpy() - own.mean(0)
        expected = np.sqrt(off @ np.linalg.inv(covariance) @ off / 12 + NEAR**2)
        assert far[n, y, x].item() == pytest.approx(expected, rel=5e-3)


WAYS = [[torch.randn(n, 12, generator=seeded(20 + n)) for n in counts] for counts in ((5, 3), (4, 2))]
"""Of each class two ways to group its patches, by the middles of the groups."""
USUAL, SPREAD = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.4]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])


def grouped() -> Lite:
    net = closed_form()
    net.remember(
        [
            [Groups(net.turned(klass, some), USUAL[: len(some)], SPREAD[: len(some)]) for some in two]
            for klass, two in enumerate(WAYS)
        ]
    )
    return net


def test_the_closed_form_compares_with_the_nearest_group() -> None:
    net, maps = grouped(), good(2, seeded(12))[0]
    far = net(maps, torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    for n, (klass, y, x) in enumerate(((0, 1, 2), (1, 7, 5))):
        turn, each = net.whitening[klass], []
        for some in WAYS[klass]:
            off = torch.stack([turn @ (maps[n, :, y, x] - patch) for patch in some]).square().mean(1)
            which = int(off.argmin())
            each.append(((off[which] + NEAR**2).sqrt() - USUAL[which]) / SPREAD[which])
        torch.testing.assert_close(far[n, y, x], sum(each) / 2, rtol=1e-4, atol=1e-4)


def test_a_group_tells_how_far_its_patches_lie_from_its_middle() -> None:
    middles = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 90.0]])
    tight, wide = (width * torch.randn(4000, 2, generator=seeded(3)) for width in (0.5, 3.0))
    patches, group = torch.cat([tight, middles[1] + wide]), torch.arange(8000) // 4000
    found = Groups.of(patches, middles, group)
    # A root mean square of two numbers is Rayleigh's, by root 2.
    mean, variance = np.sqrt(np.pi) / 2, 1 - np.pi / 4
    for number, width in enumerate((0.5, 3.0)):
        assert found.usual[number].item() == pytest.approx(width * mean, rel=0.03)
        both = variance * (width**2 + (0.5**2 + 3.0**2) / 2)
        assert found.spread[number].item() == pytest.approx(np.sqrt(both), rel=0.05)
    assert found.usual[2].item() == pytest.approx(3.5 / 2 * mean, rel=0.05), "nobody's: all tell"
    alike = Groups.of(torch.zeros(9, 2), middles, torch.zeros(9).long())
    torch.testing.assert_close(alike.usual, torch.full((3,), NEAR))
    torch.testing.assert_close(alike.spread, torch.full((3,), NEAR))


def test_classes_with_few_pictures_borrow_from_the_others() -> None:
    wide, narrow = torch.eye(3).double() * 4, torch.eye(3).double()
    usual = [Moments(torch.zeros(3).double(), wide), Moments(torch.ones(3).double(), narrow)]
    for count, expected in ((1000, 1.0), (1, (1 * 1 + BORROWED * 2.5) / (1 + BORROWED))):
        variances = 1 / np.square(Lite.of(usual, [1000, count]).whitening[1].diagonal().numpy())
        np.testing.assert_allclose(variances, expected, rtol=0.03)


def test_stages_count_alike_whatever_their_channels() -> None:
    maps, classes = good(60, seeded(8))
    usual = [Moments.of([x] for x in maps[classes == klass])[0] for klass in range(2)]
    counts, shares = [30_000, 30_000], F.one_hot(classes).float()
    found = Lite.of(usual, counts, [2, 10])(maps, shares).square() - NEAR**2
    alone = []
    for part in (slice(2), slice(2, 12)):
        own = [Moments(each.mean[part], each.covariance[part, part]) for each in usual]
        alone.append(Lite.of(own, counts)(maps[:, part], shares).square() - NEAR**2)
    torch.testing.assert_close(found, sum(alone) / 2, rtol=1e-3, atol=1e-4)


def test_of_wide_stages_the_parts_that_vary_most_are_compared() -> None:
    width = MOST + 3
    variances = torch.linspace(1, 2, width).double()
    net = Lite.of([Moments(torch.zeros(width).double(), variances.diag())], [100_000])
    assert net.whitening.shape == (1, MOST, width)
    assert net.middles.shape == (1, 1, 1, MOST)
    maps = torch.randn(1, width, 4, 4, generator=seeded(5))
    expected = (maps[:, 3:] / variances[3:, None, None].sqrt()).square().mean(1).sqrt()
    torch.testing.assert_close(net(maps, torch.ones(1, 1)), expected.float(), rtol=2e-2, atol=1e-3)


def test_few_pictures_do_not_tell_what_channels_have_in_common() -> None:
    both = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    usual = [Moments(torch.zeros(2).double(), both)]
    ties = []
    for count in (1, 1000):
        whitening = Lite.of(usual, [count]).whitening[0].double()
        covariance = torch.linalg.inv(whitening.T @ whitening)
        ties.append(float(covariance[0, 1] / covariance[0, 0]))
    assert ties[1] == pytest.approx(0.9, abs=0.02)
    assert ties[0] == pytest.approx(0.9 * PATCHES / (2 + PATCHES), abs=0.02)


def test_a_class_alone_has_the_closed_form_that_it_has_among_all() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = [Moments.of([[torch.randn(6, 9, 9, generator=generator)]])[0] for _ in range(3)]
    whole, one = (Lite.of(usual, [4, 30, 9], (2, 4), only=only) for only in (None, 1))
    for name in ("means", "whitening"):
        assert torch.equal(getattr(whole, name)[1], getattr(one, name)[1])


class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = grouped()

    def forward(self, maps: Tensor) -> Tensor:
        return self.net(maps, maps.mean((2, 3))[:, :2].softmax(1))


def test_it_exports() -> None:
    net = Asked().eval()
    session = onnxruntime.InferenceSession(
        export(net, 12, (9, 12), ["far"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 4):
        maps = torch.randn(count, 12, 9, 12, generator=seeded(count))
        with torch.no_grad():
            expected = net(maps)
        [found] = session.run(None, {"pixels": maps.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
