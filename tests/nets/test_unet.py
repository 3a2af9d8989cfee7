from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.runtime import export
from blemish.nets.unet import UNet, mean_skips, recalibrate, sliced
from tests.nets.zoo import shaken

WIDTHS = (3, 4, 6, 5)
SWITCHES = list(product((False, True), repeat=len(WIDTHS) - 1))


def unet(switches: tuple[bool, ...] = (False, True, True), extra: int = 0) -> UNet:
    torch.manual_seed(7)
    net = UNet(WIDTHS, extra=extra)
    shaken(net)
    net.switch(switches)
    return net


def pictures(count: int = 2, size: tuple[int, int] = (24, 40), channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("widths", "parameters", "published"),
    [
        ((64, 128, 256, 512), 9_337_475, "9.3"),
        ((64, 128, 256, 512, 512), 25_858_691, "25.8"),
        ((32, 64, 128, 256, 256), 6_468_931, "6.5"),
        ((16, 32, 64, 128, 128), 1_619_363, "1.6"),
    ],
)
def test_number_of_parameters(widths: tuple[int, ...], parameters: int, published: str) -> None:
    net = UNet(widths)
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    kernels = sum(part.weight.numel() for part in net.modules() if isinstance(part, nn.Conv2d))
    assert f"{kernels / 1e6:.1f}" == published


def definition(state: dict[str, Tensor], x: Tensor, switches: tuple[bool, ...]) -> Tensor:
    """The network as its specification tells it, from the weights alone."""

    def step(x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=1)
        mean, var, gain, bias = (
            state[f"{name}.norm.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * gain + bias
        return torch.where(x > 0, x, 0.01 * x)

    skips = []
    for level in range(len(switches)):
        skips.append(step(step(x, f"encoder.{level}.0"), f"encoder.{level}.1"))
        x = step(skips[-1], f"down.{level}", stride=2)
    x = step(step(x, f"encoder.{len(switches)}.0"), f"encoder.{len(switches)}.1")
    for level in reversed(range(len(switches))):
        skip = skips[level]
        x = step(x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"up.{level}")
        x = torch.cat([x[:, :, : skip.shape[2], : skip.shape[3]], skip * switches[level]], 1)
        x = step(step(x, f"join.{level}.step"), f"decoder.{level}")
    return torch.sigmoid(F.conv2d(x, state["head.weight"], state["head.bias"], padding=1))


@pytest.mark.parametrize("switches", SWITCHES)
@torch.no_grad()
def test_it_is_the_network_of_the_definition(switches: tuple[bool, ...]) -> None:
    net, x = unet(switches), pictures(size=(23, 38))
    expected = definition(net.state_dict(), x, switches)
    assert expected.std() > 0.01
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_any_size_comes_out_as_it_went_in(high: int, wide: int, extra: int) -> None:
    net = unet(extra=extra)
    out = net(pictures(1, (high, wide), 3 + extra))
    assert out.shape == (1, 3, high, wide)
    assert out.min() > 0
    assert out.max() < 1
    torch.testing.assert_close(sliced(net)(pictures(1, (high, wide), 3 + extra)), out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(224, 640), (230, 630)])
@torch.no_grad()
def test_sizes_of_kolektor_pictures(size: tuple[int, int]) -> None:
    assert unet()(pictures(1, size)).shape == (1, 3, *size)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UsageError, match="has 3 skips: give so many switches"):
        unet().switch((True, False))
    with pytest.raises(UsageError, match="has no skip: give two widths or more"):
        UNet((16,))


@pytest.mark.parametrize("with_means", [False, True])
@pytest.mark.parametrize("switches", SWITCHES)
@torch.no_grad()
def test_sliced_equals_switched(switches: tuple[bool, ...], with_means: bool) -> None:
    net, x = unet(switches), pictures(size=(23, 38))
    plain = net(x)
    if with_means:
        mean_skips(net, [pictures(seed=1)])
        assert torch.equal(net(x), plain) == all(switches)
    quick = sliced(net.train())
    net.eval()
    assert quick.switches == switches
    torch.testing.assert_close(quick(x), net(x), rtol=0, atol=1e-5)
    kernels = [join.step.conv.weight if join.on else join.kernel for join in quick.joins]
    assert [kernel.shape[1] // kernel.shape[0] for kernel in kernels] == [1 + on for on in switches]


def test_gradients_reach_every_parameter() -> None:
    net = unet((True,) * 3).train()
    (net(pictures()) - pictures(seed=1)).square().mean().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def test_a_plain_autoencoder_learns_nothing_from_skips() -> None:
    net = unet((False,) * 3).train()
    net(pictures()).square().mean().backward()
    for join in net.joins:
        up, skip = join.step.conv.weight.grad.chunk(2, 1)
        assert up.abs().max() > 0
        assert skip.abs().max() == 0


def changed(net: UNet, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


@torch.no_grad()
def test_recalibration_changes_the_decoders_norms_alone() -> None:
    net = unet().train()
    batches = [pictures(3, seed=1), pictures(2, seed=2)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    recalibrate(net, iter(batches))
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert changed(net, before) == {
        name
        for name in before
        if name.split(".")[0] in {"up", "join", "decoder"} and name.split(".")[-1] in statistics
    }
    assert all(part.training for part in net.modules())
    assert {part.momentum for part in net.modules() if isinstance(part, nn.BatchNorm2d)} == {0.1}

    # The deepest norm of the decoder stands behind none of the others.
    net.eval()
    deepest = net.up[-1]
    seen = [deepest.conv(F.interpolate(list(net.maps(batch))[-1], scale_factor=2)) for batch in batches]
    torch.testing.assert_close(deepest.norm.running_mean, sum(x.mean((0, 2, 3)) for x in seen) / 2)
    torch.testing.assert_close(deepest.norm.running_var, sum(x.var((0, 2, 3)) for x in seen) / 2)


@torch.no_grad()
def test_recalibrated_the_decoder_is_as_in_training() -> None:
    """On one batch: in training a norm takes the same statistics, but for n / (n - 1) of the variance."""
    net, x = unet((False, False, True)), pictures(4, (192, 256))
    recalibrate(net, [x])
    calm = net(x)
    net.train()
    net.encoder.eval()
    net.down.eval()
    torch.testing.assert_close(calm, net(x), rtol=0, atol=5e-4)


@torch.no_grad()
def test_means_of_skips() -> None:
    net = unet((False, True, False)).train()
    batches = [pictures(3, seed=1), pictures(1, seed=2)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    mean_skips(net, iter(batches))
    assert changed(net, before) == {f"join.{level}.instead" for level in range(3)}
    skips = list(net.eval().maps(torch.cat(batches)))[:-1]
    for join, skip in zip(net.joins, skips, strict=True):
        torch.testing.assert_close(join.instead, skip.mean((0, 2, 3)))


def test_channels_stay_last() -> None:
    net = unet().to(memory_format=torch.channels_last)
    inner = []
    net.decoder[0].register_forward_hook(lambda part, given, out: inner.append(out))
    net(pictures().contiguous(memory_format=torch.channels_last))
    assert inner[0].is_contiguous(memory_format=torch.channels_last)
    assert not inner[0].is_contiguous()


@pytest.mark.parametrize("form", ["switched", "sliced", "sliced with means"])
@pytest.mark.parametrize("size", [(32, 48), (23, 38)])
@torch.no_grad()
def test_exported_graph_agrees(size: tuple[int, int], form: str) -> None:
    net = unet((False, False, True), extra=1)
    if form == "sliced with means":
        mean_skips(net, [pictures(channels=4, seed=1)])
    net = net if form == "switched" else sliced(net)
    session = onnxruntime.InferenceSession(
        export(net, 4, size, ["rebuilt"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        x = pictures(count, size, 4)
        found = session.run(None, {"pixels": x.numpy()})[0]
        np.testing.assert_allclose(found, net(x).numpy(), rtol=0, atol=1e-5)
