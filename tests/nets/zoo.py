"""Every backbone at its smallest, with random weights in the files that a user would have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish.nets import load_backbone
from blemish.nets.backbone import Backbone
from blemish.nets.resnet import ResNet
from blemish.nets.vgg import VGG11

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DINO = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
    ),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    "dinov2": ("Dinov2Config", DINO),
    "registers": ("Dinov2WithRegistersConfig", DINO),
    "vit": ("ViTConfig", VIT),
    "clip-vision": ("CLIPVisionConfig", VIT),
    "clip": ("CLIPConfig", {"vision_config": VIT, "text_config": TEXT}),
    "siglip-vision": ("SiglipVisionConfig", VIT),
    "align": (
        "AlignConfig",
        {"vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.3}, "text_config": TEXT},
    ),
}


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and gains too: fresh ones, all zero and one, would hide a norm left out."""
    torch.manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return net.eval()


def torchvision_state(name: str) -> dict[str, Tensor]:
    """What torchvision's own file has: its names, the classifier, no counters in the older ones."""
    torch.manual_seed(0)
    if name == "vgg11_bn":
        state = {
            key.replace("layers.", "features."): value for key, value in shaken(VGG11()).state_dict().items()
        }
        state["classifier.0.weight"] = torch.rand(8, 8)
    else:
        state = dict(shaken(ResNet(name)).state_dict())
        state["fc.weight"] = torch.rand(1000, 8)
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms folded into biased convolutions, and no more of layer4 than its biases."""
    out = {}
    for key, weight in state.items():
        if weight.ndim != 4:
            continue
        path = key.removesuffix(".weight")
        norm = path.replace("conv", "bn") if "conv" in path else path.replace("downsample.0", "downsample.1")
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        out[f"{path}.bias"] = state[f"{norm}.bias"] - gain * state[f"{norm}.running_mean"]
        if not path.startswith("layer4."):
            out[key] = weight * gain[:, None, None, None]
    return out


def from_file(name: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict) -> Any:
    def make(folder: Path) -> tuple[str, Backbone]:
        file = folder / "weights.safetensors"
        save_file(change(torchvision_state(name)), file)
        return name, load_backbone(name, weights=file)

    return make


def save_hub_model(kind: str, folder: Path) -> str:
    import transformers

    config, options = CONFIGURATIONS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, config)(**options))
    place = str(folder / kind)
    shaken(model).save_pretrained(place)
    return place


def from_hub(kind: str) -> Any:
    def make(folder: Path) -> tuple[str, Backbone]:
        name = f"hub:{save_hub_model(kind, folder)}"
        return name, load_backbone(name)

    return make


ZOO: dict[str, Callable[[Path], tuple[str, Backbone]]] = {
    "lite0": lambda folder: ("lite0", load_backbone()),
    "resnet18": from_file("resnet18"),
    "resnet18 folded": from_file("resnet18", folded),
    "resnet34": from_file("resnet34"),
    "resnet50": from_file("resnet50"),
    "wide_resnet50_2": from_file("wide_resnet50_2"),
    "vgg11_bn": from_file("vgg11_bn"),
    **{f"hub {kind}": from_hub(kind) for kind in CONFIGURATIONS},
}
