"""Every backbone by one name. Light to import: torch comes with the first backbone that is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from blemish.errors import UsageError

if TYPE_CHECKING:
    from blemish.nets.backbone import Backbone

__all__ = ["BACKBONES", "load_backbone"]

BACKBONES = {
    "lite0": "EfficientNet-Lite0, embedded: works offline",
    "resnet18": "ResNet-18, with --weights FILE",
    "resnet34": "ResNet-34, with --weights FILE",
    "resnet50": "ResNet-50, with --weights FILE",
    "wide_resnet50_2": "Wide ResNet-50-2, with --weights FILE",
    "vgg11_bn": "VGG-11 with batch norm, with --weights FILE",
    "hub:MODEL": "a vision model of Hugging Face transformers: its id or a local folder",
    "timm:MODEL": "a model of timm",
}

# What torchvision calls its ImageNet weights.
PUBLISHED = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
}


def load_backbone(name: str = "lite0", *, weights: Path | None = None) -> "Backbone":
    """A backbone in eval mode; `weights` is a state dict, torchvision's or one of ours after adaptation."""
    from blemish.nets import hub, lite0, resnet, timm, vgg
    from blemish.nets.weights import fill, read_state

    kind, _, model = name.partition(":")
    if weights is None and name in PUBLISHED:
        raise UsageError(
            f"The backbone {name} comes without weights: pass --weights FILE with torchvision's "
            f"{PUBLISHED[name]} from https://download.pytorch.org/models/ or the same as safetensors."
        )
    state = {} if weights is None else read_state(weights)
    backbone: Backbone
    if name == "lite0":
        backbone = lite0.load() if weights is None else lite0.Lite0()
    elif name == "vgg11_bn":
        backbone, state = vgg.shaped_like(state)
    elif name in PUBLISHED:
        backbone, state = resnet.shaped_like(name, state)
    elif kind == "hub" and model:
        backbone = hub.load(model)
    elif kind == "timm" and model:
        backbone = timm.load(model)
    else:
        raise UsageError(f"There is no backbone {name!r}: choose among {', '.join(BACKBONES)}.")
    if weights is not None:
        fill(backbone, state, weights)
    return backbone.eval()
