"""U-Net whose skips can be switched off.

Paper: EAR, arXiv 2310.04010 v1: all skips on in training, the shallow ones off later. The layout is that of
its first author's code for RIAD, with a sigmoid where that clamps, for beyond 0..1 a clamp has no gradient.
Ours: a skip's mean may stand for it when it is off, instead of zeros; the decoder's batch norms may be taken
anew with the skips off; and `sliced` needs fewer multiplications.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from blemish.errors import UsageError

SLOPE = 0.01


class Step(nn.Module):
    """3×3 convolution, batch norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), SLOPE, inplace=True)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias that do without the batch norm."""
        conv = fuse_conv_bn_eval(self.conv, self.norm)
        assert conv.bias is not None
        return conv.weight.detach(), conv.bias.detach()


class Up(Step):
    """Each pixel as four, then a step."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Join(nn.Module):
    """A step over what comes up and the skip, or what stands in for a skip that is off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.step = Step(2 * width, width)
        self.on = True
        self.instead: Tensor
        self.register_buffer("instead", torch.zeros(width))

    def forward(self, up: Tensor, skip: Tensor) -> Tensor:
        if not self.on:
            skip = torch.zeros_like(skip) + self.instead[:, None, None]
        return self.step(torch.cat([up, skip], 1))


class UNet(nn.Module):
    """(N, channels + extra, H, W) → (N, channels, H, W) in 0..1.

    Any height and width will do: an odd side is rounded up on the way down and cropped on the way up. Sides
    of 2 ** (levels - 1) or less end in one pixel at the deepest level, too few to train on one picture alone.
    """

    def __init__(self, widths: tuple[int, ...], channels: int = 3, extra: int = 0) -> None:
        super().__init__()
        if len(widths) < 2:
            raise UsageError(f"A U-Net of widths {widths} has no skip: give two widths or more.")
        self.encoder = nn.ModuleList(
            nn.Sequential(Step(inputs, width), Step(width, width))
            for inputs, width in pairwise((channels + extra, *widths))
        )
        self.down = nn.ModuleList(Step(width, width, stride=2) for width in widths[:-1])
        self.up = nn.ModuleList(Up(below, width) for width, below in pairwise(widths))
        self.join = nn.ModuleList(Join(width) for width in widths[:-1])
        self.decoder = nn.ModuleList(Step(width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)

    @property
    def joins(self) -> list[Join]:
        return [cast(Join, join) for join in self.join]

    @property
    def switches(self) -> tuple[bool, ...]:
        """Which skips are on, that of full resolution first."""
        return tuple(join.on for join in self.joins)

    def switch(self, switches: tuple[bool, ...]) -> None:
        if len(switches) != len(self.joins):
            raise UsageError(f"The U-Net has {len(self.joins)} skips: give so many switches, not {switches}.")
        for join, on in zip(self.joins, switches, strict=True):
            join.on = on

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """What the encoder makes of pictures: the skips, then the deepest map."""
        for level, down in zip(self.encoder, self.down, strict=False):
            skip = level(x)
            yield skip
            x = down(skip)
        yield self.encoder[-1](x)

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.maps(x)
        for skip, up, join, last in reversed(list(zip(skips, self.up, self.join, self.decoder, strict=True))):
            x = up(x)
            high, wide = (int(side) for side in skip.shape[-2:])
            if high % 2 or wide % 2:
                x = x[..., :high, :wide]
            x = last(join(x, skip))
        return self.head(x).sigmoid()


@torch.no_grad()
def recalibrate(unet: UNet, batches: Iterable[Tensor]) -> None:
    """Take the decoder's batch-norm statistics anew from these pictures, with the switches as they are."""
    training = unet.training
    unet.eval()
    decoder = [*unet.up.modules(), *unet.join.modules(), *unet.decoder.modules()]
    norms = [part for part in decoder if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # torch's word for a plain mean over all batches
    for batch in batches:
        unet(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    unet.train(training)


@torch.no_grad()
def mean_skips(unet: UNet, batches: Iterable[Tensor]) -> None:
    """From now on the mean of a skip over these pictures stands in for it when it is off."""
    training = unet.training
    unet.eval()
    pictures, sums = 0, [join.instead.double().zero_() for join in unet.joins]
    for batch in batches:
        pictures += len(batch)
        for total, skip in zip(sums, unet.maps(batch), strict=False):
            total.add_(skip.mean((2, 3)).sum(0))
    for join, total in zip(unet.joins, sums, strict=True):
        join.instead.copy_(total / pictures)
    unet.train(training)


class SlicedJoin(nn.Module):
    """A join that is off, without the half of its kernel that meets a constant."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        kernel, bias = join.step.folded()
        width = len(join.instead)
        self.kernel: Tensor
        self.bias: Tensor
        self.constant: Tensor | None
        self.register_buffer("kernel", kernel[:, :width].clone())
        self.register_buffer("bias", bias)
        # At the border some taps meet zeros instead of the constant, so that no bias can stand for it.
        constant = (kernel[:, width:] * join.instead[:, None, None]).sum(1, keepdim=True)
        self.register_buffer("constant", constant if join.instead.any() else None)

    @property
    def on(self) -> bool:
        return False

    def forward(self, up: Tensor, skip: Tensor) -> Tensor:
        x = F.conv2d(up, self.kernel, self.bias, padding=1)
        if self.constant is not None:
            high, wide = (int(side) for side in up.shape[-2:])
            x = x + F.conv2d(self.constant.new_ones(1, 1, high, wide), self.constant, padding=1)
        return F.leaky_relu(x, SLOPE)


class SlicedUp(nn.Module):
    """The same as `Up` from 16 multiplications where that takes 36.

    The nine enlarged pixels under a 3×3 kernel are at most four small ones, so a 2×2 convolution gives each
    of the four that a pixel becomes; the later ones are found one place further on.
    """

    def __init__(self, up: Up) -> None:
        super().__init__()
        kernel, bias = up.folded()
        # For the earlier and the later pixel: the taps that meet the first and the second of two neighbours.
        meet = kernel.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        self.kernel: Tensor
        self.bias: Tensor
        self.register_buffer("kernel", torch.einsum("oiyx,pay,qbx->opqiab", kernel, meet, meet).flatten(0, 2))
        self.register_buffer("bias", bias.repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (int(side) for side in x.shape[-2:])
        x = F.leaky_relu(F.conv2d(x, self.kernel, self.bias, padding=1), SLOPE)
        x = x.reshape(-1, len(self.bias) // 4, 2, 2, high + 1, wide + 1)
        rows = [torch.stack([x[:, :, i, j, i : i + high, j : j + wide] for j in (0, 1)], -1) for i in (0, 1)]
        return torch.stack(rows, 3).flatten(2, 3).flatten(3, 4)


def sliced(unet: UNet) -> UNet:
    """A copy for inspection alone: the same output for the switches as they are, which are then fixed."""
    copy = deepcopy(unet).eval().requires_grad_(False)
    for level, (up, join) in enumerate(zip(copy.up, copy.joins, strict=True)):
        copy.up[level] = SlicedUp(cast(Up, up))
        if not join.on:
            copy.join[level] = SlicedJoin(join)
    return copy
