"""ResNet and Wide ResNet, in torchvision's key layout.

Papers: He et al., arXiv 1512.03385; Zagoruyko & Komodakis, arXiv 1605.07146.
As in torchvision, a bottleneck's stride is in its 3×3 convolution.
Ours: files whose batch norms are folded into biased convolutions load too, and files that end at layer3.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Block, Tap


def conv(inputs: int, outputs: int, kernel: int, stride: int, folded: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=folded)


def norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)


def shortcut(inputs: int, outputs: int, stride: int, folded: bool) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride, folded), norm(outputs, folded))


class Basic(nn.Module):
    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, planes: int, widen: int, stride: int, folded: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride, folded), norm(planes, folded)
        self.conv2, self.bn2 = conv(planes, planes, 3, 1, folded), norm(planes, folded)
        self.downsample = shortcut(inputs, planes, stride, folded)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, planes: int, widen: int, stride: int, folded: bool) -> None:
        super().__init__()
        width, outputs = planes * widen, planes * self.expansion
        self.conv1, self.bn1 = conv(inputs, width, 1, 1, folded), norm(width, folded)
        self.conv2, self.bn2 = conv(width, width, 3, stride, folded), norm(width, folded)
        self.conv3, self.bn3 = conv(width, outputs, 1, 1, folded), norm(outputs, folded)
        self.downsample = shortcut(inputs, outputs, stride, folded)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


# block, factor on a bottleneck's inner width, blocks of layer1..layer4
VARIANTS: dict[str, tuple[type[Basic] | type[Bottleneck], int, tuple[int, ...]]] = {
    "resnet18": (Basic, 1, (2, 2, 2, 2)),
    "resnet34": (Basic, 1, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, 1, (3, 4, 6, 3)),
    "wide_resnet50_2": (Bottleneck, 2, (3, 4, 6, 3)),
}
STEM = 64


class ResNet(Backbone):
    licence = "BSD-3-Clause (torchvision)"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    default_taps = ("layer2", "layer3")

    def __init__(self, name: str, *, folded: bool = False, stages: int = 4) -> None:
        super().__init__()
        block, widen, repeats = VARIANTS[name]
        self.name = name
        self.conv1, self.bn1 = conv(3, STEM, 7, 2, folded), norm(STEM, folded)
        planes = [STEM << stage for stage in range(stages)]
        widths = [STEM, *(block.expansion * width for width in planes)]
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 1 if stage == 0 else 2
            blocks = [block(inputs, planes[stage], widen, stride, folded)]
            blocks += [block(outputs, planes[stage], widen, 1, folded) for _ in range(repeats[stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.taps = tuple(
            Tap(f"layer{stage}", channels, stride=2 << stage)
            for stage, channels in enumerate(widths[1:], start=1)
        )

    def tap(self, name: str) -> Tap:
        if name == "layer4" and len(self.taps) < 4:
            raise UsageError(
                f"The weights given for {self.name} end at layer3, so it has no tap 'layer4': "
                "pass the complete file or choose an earlier tap."
            )
        return super().tap(name)

    def fresh(self) -> "ResNet":
        """With batch norms, also where this one has them folded into its convolutions."""
        return ResNet(self.name, stages=len(self.taps))

    def chain(self) -> list[Block]:
        stages = [(tap.name, self.get_submodule(tap.name)) for tap in self.taps]
        return [
            Block("stem", self.stem, (self.conv1, self.bn1)),
            *(Block(name, stage, (stage,)) for name, stage in stages),
        ]

    def stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)


def shaped_like(name: str, state: Mapping[str, Tensor]) -> tuple[ResNet, dict[str, Tensor]]:
    """The variant that a file's keys describe, and those of its tensors that belong to it."""
    complete = "layer4.0.conv1.weight" in state
    unused = ("fc.",) if complete else ("fc.", "layer4.")
    backbone = ResNet(name, folded="conv1.bias" in state, stages=4 if complete else 3)
    return backbone, {key: value for key, value in state.items() if not key.startswith(unused)}
