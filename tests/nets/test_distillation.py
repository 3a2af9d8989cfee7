import pytest
import torch

from blemish.nets import load_backbone
from blemish.nets.distillation import (
    Codebook,
    Flat,
    Moments,
    Stages,
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


def test_a_codebook_answers_place_by_place() -> None:
    class Doubled(torch.nn.Module):
        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            assert vectors.shape[1:] == (20, 6)
            return 2 * vectors

    pictures, maps = torch.rand(2, 3, 8, 8), torch.randn(2, 6, 5, 4)
    (answered,) = Codebook([Doubled()])(pictures, [maps])
    assert torch.equal(answered, 2 * maps)


def test_moments_are_those_of_all_places() -> None:
    torch.manual_seed(0)
    pictures = [[torch.randn(3, 5, 4), 3 + 2 * torch.randn(2, 7, 7)] for _ in range(9)]
    for stage, moments in enumerate(Moments.of(pictures)):
        vectors = torch.cat([maps[stage].flatten(1).T for maps in pictures]).double()
        torch.testing.assert_close(moments.mean, vectors.mean(0))
        torch.testing.assert_close(moments.covariance, torch.cov(vectors.T, correction=0))
