"""VGG-11 with batch norm.

Paper: Simonyan & Zisserman, arXiv 1409.1556; layers in the order and numbering of torchvision's vgg11_bn.
Taps conv4 and conv6 are those of REB: the bare outputs of layers 15 and 22, before batch norm and ReLU.
A file with folded batch norms no longer has these maps, and is refused.
"""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from blemish.nets.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Block, Tap

WIDTHS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)  # 0 is a max-pool
PLACES = {7: "stem", 15: "conv4", 22: "conv6", 28: "end"}


class VGG11(Backbone):
    name = "vgg11_bn"
    licence = "BSD-3-Clause (torchvision)"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    taps = (Tap("conv4", 512, stride=8), Tap("conv6", 512, stride=16), Tap("end", 512, stride=32))
    default_taps = ("conv4", "conv6")

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in WIDTHS:
            if width:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)

    def chain(self) -> list[Block]:
        cuts = [0, *(place + 1 for place in PLACES)]
        parts = [self.layers[start:stop] for start, stop in pairwise(cuts)]
        return [Block(name, part, (part,)) for name, part in zip(PLACES.values(), parts, strict=True)]


def shaped_like(state: Mapping[str, Tensor]) -> tuple[VGG11, dict[str, Tensor]]:
    """The network, and its tensors under our names: torchvision says `features` for `layers`."""
    kept = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    return VGG11(), {key.replace("features.", "layers.", 1): value for key, value in kept.items()}
