"""Backbones of timm. Only this file may import it, as it brings torchvision."""

from typing import Any

from torch import Tensor

from blemish.errors import MissingExtraError, UsageError
from blemish.nets.backbone import UNKNOWN_LICENCE, Backbone, Tap, middle_taps


class Timm(Backbone):
    def __init__(self, model: str, net: Any) -> None:
        super().__init__()
        self.net = net
        self.name = f"timm:{model}"
        self.licence = net.pretrained_cfg.get("license") or UNKNOWN_LICENCE
        self.mean, self.std = tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"])
        info = net.feature_info
        self.taps = tuple(map(Tap, info.module_name(), info.channels(), info.reduction()))
        self.default_taps = middle_taps(self.taps)

    def features(self, x: Tensor, wanted: frozenset[str], after: str | None = None) -> dict[str, Tensor]:
        assert after is None, "a foreign network runs as a whole"
        maps = self.net(x)  # timm offers no early stop here; an exported graph drops what no output needs
        return {tap.name: value for tap, value in zip(self.taps, maps, strict=True) if tap.name in wanted}


def load(model: str) -> Timm:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", f"The backbone timm:{model}") from error
    try:
        return Timm(model, timm.create_model(model, pretrained=True, features_only=True))
    except RuntimeError as error:
        raise UsageError(
            f"timm can't make {model!r} a backbone ({error}): see timm.list_pretrained()."
        ) from error
