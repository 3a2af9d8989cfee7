"""What holds for every backbone, and what is said when one can't be had."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish.errors import MissingExtraError, UsageError
from blemish.nets import BACKBONES, load_backbone
from blemish.nets.backbone import Backbone, colour_groups
from blemish.nets.runtime import export
from tests.nets.zoo import ZOO, torchvision_state

EXPORTED = (
    "lite0",
    "resnet18",
    "hub resnet",
    "hub convnext",
    "hub vit",
    "hub dinov2",
    "hub clip",
    "hub siglip-vision",
)


def pictures(backbone: Backbone, count: int) -> Tensor:
    cell = getattr(backbone, "patch", None) or 32
    return torch.rand(count, 3, 3 * cell, 4 * cell, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=ZOO)
def named(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Backbone]:
    return ZOO[request.param](tmp_path)


def test_a_quick_copy_sees_the_same_and_sends_the_same_back(named: tuple[str, Backbone]) -> None:
    _, backbone = named
    x, seen, sent = pictures(backbone, 2), [], []
    for each in (backbone, backbone.quick()):
        x = x.detach().requires_grad_()
        maps = each(x)
        torch.stack([part.square().mean() for part in maps]).sum().backward()
        assert x.grad is not None
        seen.append([part.detach() for part in maps])
        sent.append(x.grad)
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    # As a whole: where a number is about to be clipped, rounding decides whether anything is sent back.
    assert float((sent[0] - sent[1]).norm() / sent[0].norm()) < 1e-3


@torch.no_grad()
def test_a_quick_lite0_has_no_batch_norm_and_exports() -> None:
    backbone = load_backbone("lite0").quick()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())
    x = pictures(backbone, 1)
    graph = export(backbone, 3, (x.shape[2], x.shape[3]), backbone.default_taps)
    shown = onnxruntime.InferenceSession(graph).run(None, {"pixels": x.numpy()})
    for one, other in zip(shown, backbone(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_contract(named: tuple[str, Backbone], tmp_path: Path) -> None:
    name, backbone = named
    assert backbone.name == name
    assert backbone.licence
    assert not any(part.training for part in backbone.modules())
    assert len(backbone.default_taps) == 2

    x = pictures(backbone, 2)
    taps = tuple(tap.name for tap in backbone.taps)
    maps = backbone(x, taps)
    for tap, value in zip(backbone.taps, maps, strict=True):
        assert value.shape == (2, tap.channels, x.shape[2] // tap.stride, x.shape[3] // tap.stride), tap
        assert value.isfinite().all()
        assert value.std() > 0
    for found, tap_name in zip(backbone(x), backbone.default_taps, strict=True):
        torch.testing.assert_close(found, maps[taps.index(tap_name)], rtol=0, atol=0)
    with pytest.raises(UsageError, match=f"no tap 'nowhere': choose among {taps[0]}, "):
        backbone(x, ("nowhere",))

    for weight in backbone.parameters():
        weight.mul_(0.9)
    adapted = tmp_path / "adapted.safetensors"
    save_file(backbone.state_dict(), adapted)
    for again, value in zip(load_backbone(name, weights=adapted)(x), backbone(x), strict=True):
        torch.testing.assert_close(again, value, rtol=0, atol=0)


@torch.no_grad()
def test_nothing_deeper_than_the_deepest_tap_is_computed(named: tuple[str, Backbone]) -> None:
    _, backbone = named
    x = pictures(backbone, 1)
    calls: list[nn.Module] = []
    for part in backbone.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda part, *_: calls.append(part))

    def called(*taps: str) -> list[nn.Module]:
        calls.clear()
        backbone(x, taps)
        return calls.copy()

    names = [tap.name for tap in backbone.taps]
    paths = [called(name) for name in names]
    for shallow, deep in pairwise(paths):
        assert len(shallow) < len(deep)
        assert deep[: len(shallow)] == shallow
    assert called(names[1], names[0]) == paths[1]


@pytest.mark.parametrize("kind", EXPORTED)
@torch.no_grad()
def test_exported_graph_agrees(kind: str, tmp_path: Path) -> None:
    _, backbone = ZOO[kind](tmp_path)
    size = pictures(backbone, 1).shape[2:]
    graph = export(backbone, 3, (size[0], size[1]), backbone.default_taps)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = pictures(backbone, count)
        for found, value in zip(session.run(None, {"pixels": x.numpy()}), backbone(x), strict=True):
            assert np.abs(found - value.numpy()).max() <= 1e-5 * value.abs().max()


@pytest.mark.parametrize(
    ("channels", "order"),
    [
        (1, [[0, 0, 0]]),
        (2, [[0, 1, 1]]),
        (3, [[0, 1, 2]]),
        (4, [[0, 1, 2], [3, 3, 3]]),
        (7, [[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
    ],
)
def test_colour_groups(channels: int, order: list[list[int]]) -> None:
    x = torch.rand(2, channels, 5, 4)
    groups = colour_groups(x)
    assert len(groups) == len(order)
    for group, chosen in zip(groups, order, strict=True):
        torch.testing.assert_close(group, torch.stack([x[:, c] for c in chosen], dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet19", "", "hub:", "timm:", "hub", "LITE0"])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(UsageError, match="There is no backbone") as caught:
        load_backbone(name)
    assert all(known in str(caught.value) for known in BACKBONES)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2", "vgg11_bn"])
def test_missing_weights_names_the_file(name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{name} comes without weights: pass --weights FILE .*{name}-\w+\.pth"
    ):
        load_backbone(name)


@pytest.mark.parametrize(("extra", "package"), [("hub", "transformers"), ("timm", "timm")])
def test_missing_extra(extra: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(
        MissingExtraError, match=rf"{extra}:some/model needs {package}: .*'blemish\[{extra}\]'"
    ):
        load_backbone(f"{extra}:some/model")


def test_wrong_weights_name_the_file_and_the_first_keys_that_differ(tmp_path: Path) -> None:
    file = tmp_path / "parts.safetensors"
    state = torchvision_state("resnet18")
    del state["layer1.0.bn1.running_var"]
    state["layer2.0.conv1.weight"] = torch.zeros(128, 64, 1, 1)
    state["layer5.weight"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(UsageError) as caught:
        load_backbone("resnet18", weights=file)
    assert str(caught.value).startswith(
        f"The weights file {file} is not one of resnet18: layer1.0.bn1.running_var is missing; "
        "layer2.0.conv1.weight is (128, 64, 1, 1) instead of (128, 64, 3, 3); layer5.weight is unknown. "
    )
    with pytest.raises(
        UsageError, match=r"is not one of lite0: stem\.0\.weight is missing; .*; and \d+ more\."
    ):
        load_backbone("lite0", weights=file)


class Mischief:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (Path(self.mark),)  # type: ignore[return-value]

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)


def test_unusable_weights_files(tmp_path: Path) -> None:
    def refused(file: str, words: str) -> None:
        with pytest.raises(UsageError, match=words) as caught:
            load_backbone("resnet18", weights=tmp_path / file)
        assert file in str(caught.value)

    refused("absent.pth", "does not exist")
    (tmp_path / "w.onnx").write_bytes(b"")
    refused("w.onnx", r"must be a \.safetensors, \.pth or \.pt")
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
        refused(name, "can't be read")
    (tmp_path / "empty.pt").touch()
    refused("empty.pt", "can't be read")
    mark = tmp_path / "mark"
    torch.save({"conv1.weight": Mischief(mark)}, tmp_path / "mischief.pt")
    refused("mischief.pt", "can't be read")
    assert not mark.exists()
    torch.save({"state_dict": torchvision_state("resnet18"), "epoch": 3}, tmp_path / "checkpoint.pt")
    refused("checkpoint.pt", "holds no state dict")


@torch.no_grad()
def test_state_dict_of_torch_and_of_safetensors_are_the_same_weights(tmp_path: Path) -> None:
    state = torchvision_state("resnet18")
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    x = torch.rand(1, 3, 64, 64)
    a, b = (load_backbone("resnet18", weights=tmp_path / name)(x) for name in ("a.safetensors", "a.pth"))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
