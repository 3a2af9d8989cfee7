"""Learned names, in both kinds of tower."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blemish.nets.language import load_language
from blemish.nets.namestate import (
    GEOMETRY,
    SHRINKAGE,
    TOKEN,
    NameState,
    Words,
    name_loss,
    shares,
    spoken,
)
from tests.nets.test_language import save_language

COUNTS = (100, 10, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looks(classes: int = 3, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(classes, width, generator=seeded(seed))


def learning(module: torch.nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def test_the_tower_is_that_of_its_definition() -> None:
    net = NameState(looks(), COUNTS, seed=3)
    with torch.no_grad():
        net.normal.normal_()
    w = {name: value.double().numpy() for name, value in net.state_dict().items()}
    for state, found in zip(("normal", "abnormal"), net()[1:], strict=True):
        v, s = np.broadcast_to(w[state], (3, TOKEN)), w["names"]
        inner = np.concatenate([s, v, s * v], 1) @ w["tower.inner"].T
        gelu = F.gelu(torch.from_numpy(inner)).numpy()
        whole = s @ w["tower.of_name"].T + v @ w["tower.of_state"].T + gelu @ w["tower.outer"].T
        expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
        np.testing.assert_allclose(found.detach(), expected, atol=1e-5)
    assert torch.equal(net().bare, net().normal)


@given(st.integers(1, 7), st.integers(2, 150), st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_weights_are_orthogonal_and_names_start_at_the_pictures(classes: int, width: int, seed: int) -> None:
    torch.manual_seed(seed + 17)  # the process's own state sways nothing
    net = NameState(looks(classes, width, seed), [1] * classes, seed=seed)
    for name, gain in (("of_name", 1.0), ("of_state", 1.0), ("inner", 1.0), ("outer", 0.3)):
        weight = getattr(net.tower, name).detach() / gain
        small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-4, rtol=0)
    # Nothing that a name could say would bring it nearer to its pictures.
    off = net.looks - net.names.detach() @ net.tower.of_name.detach().T
    torch.testing.assert_close(
        off @ net.tower.of_name.detach(), torch.zeros(classes, TOKEN), atol=1e-5, rtol=0
    )
    assert net.abnormal.norm().item() == pytest.approx(1, abs=1e-5)
    assert not net.normal.any()
    for table in net():
        torch.testing.assert_close(table.norm(dim=1), torch.ones(classes))
    again = NameState(looks(classes, width, seed), [1] * classes, seed=seed)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"names", "tower.of_name", "tower.of_state", "tower.inner", "tower.outer"}),
        ({"tower": "frozen"}, {"names"}),
        ({"naming": "given"}, set()),
        ({"naming": "object"}, set()),
    ],
)
def test_what_learns(options: dict[str, str], names: set[str]) -> None:
    net = NameState(looks(), COUNTS, **options)  # type: ignore[arg-type]
    net.learn("names")
    assert learning(net) == names
    images, classes = F.normalize(looks(9), dim=1), torch.arange(9) % 3
    loss = name_loss(images, net().normal, classes) + net.regulariser()
    if names:
        loss.backward()
        # The state normal is nothing, so the weights that read it have nothing to learn from.
        reached = {
            name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.any()
        }
        assert reached == names - {"tower.of_state"}
        assert net.names.grad is not None
        assert (net.names.grad.abs().amax(1) > 0).all()
    net.zero_grad()
    net.learn("state")
    assert learning(net) == {"abnormal"}
    net().abnormal.square().sum().backward()
    assert {name for name, weight in net.named_parameters() if weight.grad is not None} <= {
        "abnormal"
    } | names
    assert net.abnormal.grad is not None


def test_abnormal_means_much_the_same_to_all_names() -> None:
    tables = NameState(looks(8, 128), [1] * 8)()
    changes = F.normalize(tables.abnormal - tables.normal, dim=1)
    assert (changes @ changes.T).min().item() > 0.5


def test_names_are_learned_until_they_tell_their_pictures() -> None:
    net = NameState(looks(4), [5] * 4)
    net.learn("names")
    centres = F.normalize(looks(4, seed=9), dim=1)  # not what they started from
    classes = torch.arange(40) % 4
    images = F.normalize(centres[classes] + 0.1 * torch.randn(40, 32, generator=seeded(1)), dim=1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    before = float(name_loss(images, net().normal, classes).detach())
    for _ in range(60):
        loss = name_loss(images, net().normal, classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1 * before
    found = shares(images, net().normal.detach())
    torch.testing.assert_close(found.sum(1), torch.ones(40))
    assert torch.equal(found.argmax(1), classes)


def test_terms_that_keep_names_near_what_they_name() -> None:
    net = NameState(looks(3), COUNTS)
    mu, t, s = (x.detach().double().numpy() for x in (net.looks, net().normal, net.names))
    geometry = sum((t[c] @ t[d] - mu[c] @ mu[d]) ** 2 for c in range(3) for d in range(3) if c != d)
    shrinkage = 0.0
    for c in range(3):
        others = [d for d in range(3) if d != c]
        weights = np.exp([mu[c] @ mu[d] / 0.1 for d in others])
        around = (weights / weights.sum()) @ s[others]
        shrinkage += np.square(s[c] - around).sum() / COUNTS[c]
    assert net.geometry().item() == pytest.approx(geometry, rel=1e-4)
    assert net.shrinkage().item() == pytest.approx(shrinkage, rel=1e-4)
    assert net.regulariser().item() == pytest.approx(GEOMETRY * geometry + SHRINKAGE * shrinkage, rel=1e-4)
    (slope,) = torch.autograd.grad(net.shrinkage(), net.names)
    assert slope[2].norm() > 5 * slope[0].norm(), "the rarest is drawn most"
    alone = NameState(looks(1), [4])
    assert alone.regulariser().item() == pytest.approx(0, abs=1e-10)
    assert name_loss(F.normalize(looks(5), dim=1), alone().normal, torch.zeros(5).long()).item() == 0


def test_all_share_one_name() -> None:
    tables = NameState(looks(5), [3] * 5, naming="object")()
    for table in tables:
        torch.testing.assert_close(table, table[:1].expand_as(table))
    given = NameState(looks(5), [3] * 5, naming="given")
    assert torch.equal(given.names, NameState(looks(5), [3] * 5).names)


def test_a_name_for_a_class_that_was_not_there() -> None:
    net = NameState(looks(4, 64), [5] * 4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    centre = F.normalize(looks(1, 64, seed=5), dim=1)
    images = F.normalize(centre + 0.05 * torch.randn(4, 64, generator=seeded(2)), dim=1)
    name = net.name_for(images)
    assert name.shape == (TOKEN,)
    generic = net.tower(net.normal, net.names.mean(0)[None])
    own = net.tower(net.normal, name[None])
    assert float((images @ own.T).mean().detach()) > float((images @ generic.T).mean().detach()) + 0.3
    table = torch.cat([net().normal, own]).detach()
    assert (shares(images, table)[:, 4] > 0.9).all()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(name, net.name_for(images))


CLASSES = ("metal", "metal_cable", "box")


@pytest.mark.parametrize("kind", ["align", "clip", "siglip"])
def test_words_are_what_the_text_tower_reads(kind: str, tmp_path: Path) -> None:
    language = load_language(str(save_language(kind, tmp_path)))
    tables = Words(language, CLASSES, naming="given")()
    for number, klass in enumerate(CLASSES):
        name = language.word_embedding(spoken(klass))[None]
        texts = ["{}", "a photo of a normal {}", "a photo of a damaged {}"]
        expected = language.encode_text(language.embed_words(texts, name.shape[1]), name)
        for table, text in zip(tables, expected, strict=True):
            torch.testing.assert_close(table[number], text, rtol=1e-4, atol=1e-5)
    generic = Words(language, CLASSES, naming="object")()
    for table in generic:
        torch.testing.assert_close(table[0], table[2])
    several = Words(language, CLASSES, ensemble=True)()
    assert torch.linalg.norm(several.normal, dim=1).tolist() == pytest.approx([1] * 3, abs=1e-5)
    assert not torch.allclose(several.normal, Words(language, CLASSES)().normal)


@pytest.mark.parametrize("tokens", [1, 4])
def test_words_learn_and_nothing_else(tokens: int, tmp_path: Path) -> None:
    language = load_language(str(save_language("clip", tmp_path)))
    words, again, other = (Words(language, CLASSES, tokens=tokens, seed=seed) for seed in (0, 0, 1))
    assert [name.shape for name in words.names] == [(tokens, language.token_width)] * 3
    assert torch.equal(words.names[1], again.names[1])
    assert not torch.equal(words.names[1], other.names[1])
    assert set(words.state_dict()) == {f"names.{number}" for number in range(3)}, "no text tower"
    words.learn("names")
    images = F.normalize(torch.randn(6, language.width, generator=seeded()), dim=1)
    (name_loss(images, words().normal, torch.arange(6) % 3) + words.regulariser()).backward()
    for name in words.names:
        assert name.grad is not None
        assert (name.grad.abs().amax(1) > 0).all()
    assert all(weight.grad is None for weight in language.parameters())
    words.learn("state")
    assert learning(words) == set()
    for naming in ("given", "object"):
        fixed = Words(language, CLASSES, naming=naming)  # type: ignore[arg-type]
        fixed.learn("names")
        assert learning(fixed) == set()


def test_folders_as_words() -> None:
    assert [spoken(name) for name in ("metal_nut", "", "screw")] == ["metal nut", "object", "screw"]
