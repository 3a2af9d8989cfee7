import pytest
import torch

from blemish.nets import load_backbone
from blemish.nets.distillation import (
    Flat,
    Moments,
    Stages,
    Subspace,
    agreement,
    distance,
    seen,
    stage_taps,
    unflattened,
)
from blemish.nets.resnet import ResNet


def test_stages_are_the_last_of_each_stride() -> None:
    assert stage_taps(load_backbone()) == ("s4", "s8", "s16", "s32")
    assert stage_taps(ResNet("resnet18")) == ("layer1", "layer2", "layer3", "layer4")
    assert stage_taps(ResNet("resnet18", folded=True, stages=3)) == ("layer1", "layer2", "layer3")


def test_the_same_and_the_opposite() -> None:
    teacher = torch.randn(2, 5, 4, 3)
    torch.testing.assert_close(seen("ws", teacher, teacher), torch.zeros_like(teacher), rtol=0, atol=1e-6)
    torch.testing.assert_close(seen("ws", teacher, -teacher), -teacher)
    torch.testing.assert_close(seen("wt", teacher, -2 * teacher), teacher)
    torch.testing.assert_close(agreement(teacher, 3 * teacher), torch.ones(2, 4, 3))
    assert float(distance([teacher] * 4, [-teacher] * 4)) == pytest.approx(8, abs=1e-5)


def test_what_the_head_is_shown() -> None:
    teacher, student = torch.randn(2, 2, 5, 4, 3)
    weight = (1 - agreement(teacher, student))[:, None] / 2
    assert torch.equal(seen("t", teacher, student), teacher)
    assert torch.equal(seen("s", teacher, student), student)
    assert torch.equal(seen("difference", teacher, student), (teacher - student).abs())
    both = seen("both", teacher, student)
    assert torch.equal(both, torch.cat([teacher, weight * student], 1))


@pytest.mark.parametrize("name", ["lite0", "resnet18"])
def test_two_random_networks_disagree_everywhere(name: str) -> None:
    backbone = load_backbone() if name == "lite0" else ResNet(name)
    torch.manual_seed(0)
    one, two = (Stages(backbone.fresh().eval(), stage_taps(backbone)) for _ in range(2))
    with torch.no_grad():
        off = float(distance(*(net(torch.rand(2, 3, 64, 64)) for net in (one, two))))
    assert 1.5 < off < 4.5  # the spec finds about 2.3 for ResNet-18, whose maps are never negative


def test_a_fresh_start_keeps_the_architecture_and_nothing_else() -> None:
    old = load_backbone()
    new = old.fresh()
    assert type(new) is type(old)
    convolutions = [name for name, value in old.named_parameters() if value.ndim == 4]
    state, fresh = old.state_dict(), new.state_dict()
    assert not any(torch.equal(state[name], fresh[name]) for name in convolutions)
    assert float(fresh["stem.1.running_var"].max()) == 1
    folded = ResNet("resnet18", folded=True, stages=3).fresh()
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert [tap.name for tap in folded.taps] == ["layer1", "layer2", "layer3"]


def test_flat_rows_become_maps_again() -> None:
    stages = Stages(load_backbone(), ("s4", "s8", "s16"))
    pictures = torch.rand(2, 5, 64, 96)  # five channels: two groups of three
    with torch.no_grad():
        maps, rows = stages(pictures), Flat(stages)(pictures)
    assert [len(x[0]) for x in maps] == [48, 80, 224]
    again = unflattened(rows, stages.shapes(5, (64, 96)))
    assert all(torch.equal(*pair) for pair in zip(again, maps, strict=True))


def test_a_subspace_knows_what_good_pictures_vary_in() -> None:
    torch.manual_seed(0)
    mixing, mean = torch.randn(6, 2), torch.randn(6)

    def good() -> torch.Tensor:
        return torch.einsum("ck,khw->chw", mixing, torch.randn(2, 5, 4)) + mean[:, None, None]

    usual = Moments.of([[good(), 3 * good()] for _ in range(30)])
    torch.testing.assert_close(usual[1].covariance, 9 * mixing.double() @ mixing.T.double(), rtol=0.3, atol=3)
    student = Subspace.of(usual, 0.999)
    assert [basis.shape for basis in student.bases] == [(2, 6), (2, 6)]
    new, bad = good()[None], good()[None].clone()
    bad[..., 2, 1] += torch.randn(6)
    torch.testing.assert_close(student(new, [new, new])[0], new, rtol=1e-3, atol=1e-3)
    off = 1 - agreement(bad, student(bad, [bad, bad])[0])[0]
    assert off.argmax() == 2 * 4 + 1
    assert off.flatten().sort().values[-2] < 1e-5
