"""Backbones in two parts, one of which learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blemish.nets.backbone import Backbone
from blemish.nets.proxy import Lower, Proxy, early_block, one_against_all, parts
from blemish.nets.runtime import Compiled
from tests.nets.zoo import ZOO

CHAINS = {
    "lite0": ("stem", "s4", "s8", "s16a", "s16", "s32a", "s32"),
    "resnet18": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "resnet18 folded": ("stem", "layer1", "layer2", "layer3"),
    "vgg11_bn": ("stem", "conv4", "conv6", "end"),
}
FOREIGN = ("hub resnet", "hub vit")


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 64, generator=torch.Generator().manual_seed(1))


def proxy(kind: str, folder: Path) -> Proxy:
    _, backbone = ZOO[kind](folder)
    torch.manual_seed(0)
    return Proxy(backbone, 7)


@pytest.mark.parametrize("kind", CHAINS)
@torch.no_grad()
def test_going_on_after_a_block_is_going_all_the_way(kind: str, tmp_path: Path) -> None:
    _, backbone = ZOO[kind](tmp_path)
    names = [block.name for block in backbone.chain()]
    assert names == list(CHAINS[kind])
    assert [name for name in names if name != "stem"] == [tap.name for tap in backbone.taps]
    x = backbone.normalised(pictures())
    whole = backbone.features(x, frozenset(names))
    assert list(whole) == names
    for place, name in enumerate(names):
        deeper = frozenset(names[place + 1 :])
        rest = backbone.features(whole[name], deeper, name)
        assert set(rest) == deeper
        assert all(torch.equal(value, whole[tap]) for tap, value in rest.items())
        assert torch.equal(Lower(backbone, name)(pictures()), whole[name])


@pytest.mark.parametrize(
    ("kind", "taps", "early"),
    [
        ("lite0", (), "s4"),
        ("lite0", ("s32", "s16a"), "s8"),
        ("lite0", ("s4", "s16"), "stem"),
        ("resnet18", (), "layer1"),
        ("resnet18 folded", ("layer3",), "layer2"),
        ("vgg11_bn", (), "stem"),
        ("vgg11_bn", ("end",), "conv6"),
        ("hub resnet", (), None),
    ],
)
def test_early_is_what_comes_before_the_taps(
    kind: str, taps: tuple[str, ...], early: str | None, tmp_path: Path
) -> None:
    _, backbone = ZOO[kind](tmp_path)
    assert early_block(backbone, taps or backbone.default_taps) == early


def weights(modules: list[nn.Module]) -> list[int]:
    return [id(weight) for module in modules for weight in module.parameters()]


@pytest.mark.parametrize("kind", [*CHAINS, *FOREIGN])
def test_the_two_parts_are_the_whole(kind: str, tmp_path: Path) -> None:
    _, backbone = ZOO[kind](tmp_path)
    everything = set(weights([backbone]))
    previous = -1
    for last in (None, *(block.name for block in backbone.chain())):
        lower, upper = (weights(part) for part in parts(backbone, last))
        assert len(lower) > previous
        assert len(lower) + len(upper) == len({*lower, *upper})
        assert {*lower, *upper} == everything
        previous = len(lower)
    deepest = backbone.taps[-1].name
    lower, upper = parts(backbone, deepest)
    assert set(weights(lower)) == everything
    assert not weights(upper)


def freeze(backbone: Backbone, last: str | None) -> set[str]:
    """What is left to learn, by name."""
    lower, _ = parts(backbone, last)
    for part in lower:
        part.requires_grad_(False)
    return {name for name, weight in backbone.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("lite0", "s4"),
        ("lite0", "s32"),
        ("lite0", None),
        ("resnet18", "layer1"),
        ("resnet18 folded", "layer3"),
        ("vgg11_bn", "stem"),
        ("hub resnet", None),
        ("hub resnet", "stage4"),
        ("hub vit", None),
    ],
)
def test_gradients_reach_the_upper_part_and_the_head_alone(
    kind: str, last: str | None, tmp_path: Path
) -> None:
    network = proxy(kind, tmp_path)
    learning = freeze(network.backbone, last)
    assert bool(learning) == (last != network.deepest)
    labels = torch.tensor([0, 6])
    losses, gradients = [], []
    for given in ("pictures", "map"):
        network.zero_grad()
        x = pictures()
        if given == "map" and last is not None:
            x = Lower(network.backbone, last)(x)
        loss = one_against_all(network(x, last if given == "map" else None), labels)
        loss.backward()
        reached = {name for name, weight in network.named_parameters() if weight.grad is not None}
        expected = {f"backbone.{name}" for name in learning} | {
            f"head.{name}" for name, _ in network.head.named_parameters()
        }
        # Of a foreign network what lies behind the deepest tap, such as a pooler, is never asked.
        assert reached == expected or (kind in FOREIGN and reached < expected and last is None)
        assert len(reached) > 0.9 * len(expected)
        losses.append(loss)
        gradients.append([weight.grad for weight in network.parameters() if weight.grad is not None])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_each_class_has_a_probability_of_its_own() -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 7
    chance = (1 / (1 + np.exp(-logits.double().numpy()))).clip(1e-6, 1 - 1e-6)
    truth = np.eye(7)[labels]
    expected = -(truth * np.log(chance) + (1 - truth) * np.log(1 - chance)).mean()
    assert float(one_against_all(logits, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "last"), [("lite0", "s4"), ("hub vit", "layer4")])
@torch.no_grad()
def test_the_frozen_part_in_the_runtime_gives_the_same_tensors(kind: str, last: str, tmp_path: Path) -> None:
    _, backbone = ZOO[kind](tmp_path)
    lower = Lower(backbone, last)
    compiled = Compiled(lower, 3, (32, 64), torch.device("cpu"))
    for count in (1, 3):
        expected = lower(pictures(count))
        found = compiled.run(pictures(count))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(compiled(pictures(count).numpy()), found)
