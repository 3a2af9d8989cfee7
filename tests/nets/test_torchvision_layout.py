"""Our ResNet and VGG against other definitions of the same networks."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets import load_backbone
from blemish.nets.resnet import VARIANTS, ResNet
from blemish.nets.vgg import VGG11
from tests.nets.zoo import folded, shaken, torchvision_state

REAL = Path(__file__).parents[3] / "shared/weights/resnet18_imagenet_bnfolded_to_layer3.safetensors"
LAYERS = ("layer1", "layer2", "layer3", "layer4")
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.mark.parametrize(
    ("name", "published", "head"),
    [
        ("resnet18", 11_689_512, 513_000),
        ("resnet34", 21_797_672, 513_000),
        ("resnet50", 25_557_032, 2_049_000),
        ("wide_resnet50_2", 68_883_240, 2_049_000),
        ("vgg11_bn", 132_868_840, 123_642_856),
    ],
)
def test_number_of_parameters_is_the_published_one_less_the_classifier(
    name: str, published: int, head: int
) -> None:
    net: nn.Module = VGG11() if name == "vgg11_bn" else ResNet(name)
    assert sum(value.numel() for value in net.parameters()) == published - head


def transformers_name(key: str) -> str:
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)", key):
        stage, block, kind, place, shortcut, leaf = found.groups()
        part = f"layer.{int(place) - 1}" if place else "shortcut"
        role = "convolution" if kind == "conv" or shortcut == "0" else "normalization"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{role}.{leaf}"
    stem = {"conv1": "convolution", "bn1": "normalization"}
    layer, leaf = key.split(".")
    return f"embedder.embedder.{stem[layer]}.{leaf}"


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@torch.no_grad()
def test_resnet_agrees_with_that_of_transformers(name: str) -> None:
    from transformers import ResNetConfig, ResNetModel

    block, _, depths = VARIANTS[name]
    sizes = [64 * block.expansion << stage for stage in range(4)]
    kind = "basic" if block.expansion == 1 else "bottleneck"
    reference = ResNetModel(ResNetConfig(hidden_sizes=sizes, depths=list(depths), layer_type=kind)).eval()
    ours = shaken(ResNet(name))
    reference.load_state_dict({transformers_name(key): value for key, value in ours.state_dict().items()})
    x = torch.rand(1, 3, 96, 64)
    expected = reference((x - MEAN) / STD, output_hidden_states=True).hidden_states[1:]
    for found, value in zip(ours(x, LAYERS), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vgg_taps_are_bare_convolutions(tmp_path: Path) -> None:
    state = torchvision_state("vgg11_bn")
    save_file(state, tmp_path / "vgg.safetensors")
    x = torch.rand(1, 3, 64, 96)
    found = load_backbone("vgg11_bn", weights=tmp_path / "vgg.safetensors")(x, ("conv4", "conv6", "end"))

    expected, y, place = {}, (x - MEAN) / STD, 0
    for step in "cpcpccpccpccp":
        if step == "p":
            y, place = F.max_pool2d(y, 2), place + 1
            expected[place - 1] = y
            continue
        y = F.conv2d(y, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
        expected[place] = y
        norm = [
            state[f"features.{place + 1}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        ]
        y, place = F.relu(F.batch_norm(y, *norm)), place + 3
    for value, at in zip(found, (15, 22, 28), strict=True):
        torch.testing.assert_close(value, expected[at], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
@torch.no_grad()
def test_folded_file_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    state = torchvision_state(name)
    save_file(state, tmp_path / "whole.safetensors")
    save_file(folded(state), tmp_path / "folded.safetensors")
    whole = load_backbone(name, weights=tmp_path / "whole.safetensors")
    part = load_backbone(name, weights=tmp_path / "folded.safetensors")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in part.modules())
    x = torch.rand(2, 3, 64, 64)
    for one, other in zip(part(x, LAYERS[:3]), whole(x, LAYERS[:3]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    with pytest.raises(UsageError, match="end at layer3, so it has no tap 'layer4'"):
        part(x, ("layer4",))


def convolve(x: Tensor, state: dict[str, Tensor], path: str, stride: int) -> Tensor:
    weight = state[f"{path}.weight"]
    return F.conv2d(x, weight, state[f"{path}.bias"], stride, padding=weight.shape[-1] // 2)


@pytest.mark.real
@torch.no_grad()
def test_real_folded_resnet18() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is absent")
    backbone = load_backbone("resnet18", weights=REAL)
    assert [tap.name for tap in backbone.taps] == ["layer1", "layer2", "layer3"]
    x = torch.rand(1, 3, 225, 190)
    state = load_file(REAL)
    y = F.max_pool2d(F.relu(convolve((x - MEAN) / STD, state, "conv1", 2)), 3, 2, 1)
    for layer, found in zip(LAYERS, backbone(x, LAYERS[:3]), strict=False):
        for block in (f"{layer}.0", f"{layer}.1"):
            stride = 2 if f"{block}.downsample.0.weight" in state else 1
            z = convolve(F.relu(convolve(y, state, f"{block}.conv1", stride)), state, f"{block}.conv2", 1)
            y = F.relu(z + (convolve(y, state, f"{block}.downsample.0", 2) if stride == 2 else y))
        torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4)
