"""The networks as they learn together, and what they find."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.nets.groups import Lite
from blemish.nets.judge import TOLD, Called, Calling, Deviation, Judge, Judging, Shown, Told
from blemish.nets.namestate import Learned, NameState, Tables
from blemish.nets.semantic import Semantic, pseudo_anomalies, semantic_loss
from blemish.nets.space import Seen
from blemish.nets.uniad import Reconstruction, reconstruction_error
from blemish.nets.vae import ConditionalVAE

GRID = (4, 6)
PARTS, CHANNELS, WIDTH = 4, 6, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(classes: int = 3) -> NameState:
    return NameState(torch.randn(classes, WIDTH, generator=seeded(4)), [4] * classes)


def transformer() -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(PARTS, GRID, width=8, heads=2, depth=1, hidden=8, dropout=0.0)


def classifier(**options: Any) -> Semantic:
    torch.manual_seed(1)
    return Semantic(torch.ones(CHANNELS), WIDTH, hidden=4, **options)


def changed(net: torch.nn.Module, loss: Tensor) -> set[str]:
    net.zero_grad()
    loss.backward()
    return {name.partition(".")[0] for name, weight in net.named_parameters() if weight.grad is not None}


def test_names_learn_with_the_generator_and_to_tell_classes() -> None:
    torch.manual_seed(0)
    vae = ConditionalVAE(CHANNELS, GRID, WIDTH, width=8, latent=8)
    net = Calling(names(), vae, 2.0)
    net.names.learn("names")
    images = F.normalize(torch.randn(6, WIDTH, generator=seeded()), dim=1)
    maps, noise = torch.randn(6, CHANNELS, *GRID, generator=seeded(1)), torch.randn(6, 8, generator=seeded(2))
    batch = Called(maps, images, torch.arange(6) % 3, noise, 1e-3)
    both = net(batch)
    table = net.names().bare[batch.classes]
    made = vae.loss(maps, table, noise, 1e-3)
    telling = Calling(net.names, None, 1.0)(batch)
    torch.testing.assert_close(both, made + 2 * telling)
    assert changed(net, both) == {"names", "vae"}
    assert net.learns
    assert not Calling(names(1), None, 1.0).learns
    assert Calling(names(), None, 1.0).learns
    assert not Calling(names(), None, 0.0).learns, "gamma 0 asks nothing of names"
    assert Calling(names(1), vae, 1.0).learns


def batch(*, overdone: bool = True) -> Shown:
    seen = Seen(torch.randn(6, CHANNELS, *GRID, generator=seeded(5)))
    classes = torch.arange(6) % 3
    clean = seen.some(TOLD)
    wrong = pseudo_anomalies(clean, classes[TOLD], seeded(3), rebuilt=overdone)
    wrong = wrong._replace(push=torch.tensor([2.0, 0.0, 0.0]))
    return Shown(seen.maps[:, :PARTS], Told(classes[TOLD], clean, wrong, overdone), 7)


def test_what_is_judged_by() -> None:
    net = Judging(names(), None, transformer(), classifier()).eval()
    net.names.learn("state")
    assert isinstance(net.names, NameState)
    shown, noisy = batch(), torch.randn(6, PARTS, *GRID, generator=seeded(6))
    assert net.rm is not None
    assert shown.told is not None
    rebuilt, wrong = net.rm(noisy), shown.told.wrong
    missed = (shown.parts - rebuilt)[TOLD].detach()
    odds = net.odds(wrong.pushed(missed), shown.told.classes)
    expected = F.mse_loss(rebuilt, shown.parts) + semantic_loss(odds, wrong.where)
    found = net(noisy, shown)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(net(noisy, batch(overdone=False)), found)
    assert changed(net, found) == {"names", "rm", "sad"}
    assert net.names.abnormal.grad is not None
    assert net.names.names.grad is None


def test_the_classifier_teaches_the_reconstruction_nothing() -> None:
    alone = Judging(names(), None, transformer(), None).eval()
    both = Judging(names(), None, transformer(), classifier()).eval()
    shown, noisy = batch(), torch.randn(6, PARTS, *GRID, generator=seeded(6))
    slopes = []
    for net in (alone, both):
        net.names.learn("state")
        net(noisy, shown).backward()
        assert net.rm is not None
        slopes.append([weight.grad for weight in net.rm.parameters()])
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_whole_pictures_are_told_from_clean_ones() -> None:
    net = Judging(names(), None, None, classifier(level="image"))
    shown = batch(overdone=False)
    assert shown.told is not None
    each = shown.told.wrong.seen, shown.told.clean
    wrong, clean = (net.odds(seen, shown.told.classes)[:, 0, 0] for seen in each)
    expected = semantic_loss(torch.cat([wrong, clean]), torch.tensor([1.0] * 3 + [0.0] * 3))
    torch.testing.assert_close(net(shown.parts, shown), expected)


def tables() -> Tables:
    return Tables(*F.normalize(torch.randn(3, 3, WIDTH, generator=seeded(8)), dim=2))


def test_names_that_learn_no_more() -> None:
    known = Learned(3, WIDTH)
    known.keep(tables())
    assert all(torch.equal(*pair) for pair in zip(known(), tables(), strict=True))
    known.learn("state")
    assert not any(weight.requires_grad for weight in known.parameters())


@torch.no_grad()
def test_both_scores_become_one() -> None:
    rm, sad = transformer().eval(), classifier().eval()
    torch.nn.init.normal_(sad.bend[2].weight)  # type: ignore[union-attr, index]
    seen, shares = Seen(torch.randn(2, CHANNELS, *GRID)), torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5]])

    def judge(**options: Any) -> Judge:
        options = {"rm": rm, "sad": sad, "rebuilt": PARTS, "kind": "sq", **options}
        made = Judge(tables(), options.pop("rm"), options.pop("sad"), **options)
        made.balance = 3.0
        return made

    off = reconstruction_error(seen.maps[:, :PARTS], rm(seen.maps[:, :PARTS]), "sq")
    each = sad(seen.maps, tables().normal, tables().abnormal).sigmoid()
    abnormal = torch.stack([each[0, 0], (shares[1, :, None, None] * each[1]).sum(0)])
    torch.testing.assert_close(judge()(seen, shares), off + 3 * abnormal)
    torch.testing.assert_close(judge(kappa=0.5)(seen, shares), off + 1.5 * abnormal)
    torch.testing.assert_close(judge(rm=None)(seen, shares), abnormal)
    torch.testing.assert_close(judge(sad=None)(seen, shares), off)
    cosine = reconstruction_error(seen.maps[:, :PARTS], rm(seen.maps[:, :PARTS]), "cos")
    harmonic = judge(fusion="harmonic", kappa=3.0)(seen, shares)
    torch.testing.assert_close(harmonic, 1 / (0.25 / cosine + 0.75 / abnormal))


@torch.no_grad()
def test_the_closed_form_compares_on_a_finer_grid() -> None:
    rm, sad = transformer().eval(), Lite(3, 7)
    fine = torch.randn(2, 7, 2 * GRID[0], 2 * GRID[1], generator=seeded(9))
    seen = Seen(torch.randn(2, CHANNELS, *GRID, generator=seeded(10)), compared=fine)
    judge = Judge(tables(), rm, sad, rebuilt=PARTS, kind="sq")
    shares = torch.eye(3)[:2]
    expected = F.interpolate(judge.off(seen)[:, None], scale_factor=2, mode="bilinear")[:, 0]
    torch.testing.assert_close(judge(seen, shares), expected + sad(fine, shares))


def test_deviations_in_which_classes_count_alike() -> None:
    many, few = torch.randn(1000, generator=seeded()) * 2, 5 + torch.randn(10, generator=seeded(1))
    found = Deviation()
    found.add(many)
    found.add(few)
    weights = torch.cat([torch.full((1000,), 1 / 1000), torch.full((10,), 1 / 10)]) / 2
    values = torch.cat([many, few])
    mean = (weights * values).sum()
    expected = (weights * (values - mean).square()).sum().sqrt()
    assert found.value == pytest.approx(expected.item(), rel=1e-5)
