"""Vision backbones of Hugging Face transformers: convolutional ones and plain vision transformers.

A tap is what one block of the model's outermost list of blocks gives out, under the model's own word for it
(`stage2`, `layer6`, `block11`) and counted from one: the `hidden_states` of that number.
"""

from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from blemish.errors import MissingExtraError, UsageError
from blemish.nets.backbone import IMAGENET_MEAN, IMAGENET_STD, UNKNOWN_LICENCE, Backbone, Tap, middle_taps


class DeepestReached(Exception):  # noqa: N818  (no error: it ends the model's forward pass)
    pass


class Hub(Backbone):
    def __init__(self, model: str, tower: nn.Module, *, local: bool = False) -> None:
        """`local`: nothing is asked of the hub, as nothing ever is of a folder."""
        super().__init__()
        local = local or Path(model).is_dir()
        self.name = f"hub:{model}"
        self.tower = tower.eval()
        # The plain dictionary keeps the blocks out of the state dict, where the tower already has them.
        self.blocks = outermost_blocks(tower)
        resizable = "interpolate_pos_encoding" in signature(type(tower).forward).parameters
        self.options = {"interpolate_pos_encoding": True} if resizable else {}
        self.licence = licence(model, local)
        self.mean, self.std = normalisation(model, local)
        self.patch: int | None = None
        self.taps = self.find_taps(tower.config)
        quarters = {len(self.taps) // 2, len(self.taps) * 3 // 4}
        tokens = tuple(tap.name for place, tap in enumerate(self.taps, start=1) if place in quarters)
        self.default_taps = tokens if self.patch else middle_taps(self.taps)

    def find_taps(self, config: Any) -> tuple[Tap, ...]:
        """A trial run tells what the configurations of different models tell differently or not at all."""
        patch = getattr(config, "patch_size", None)
        side = 224 if patch is None else config.image_size
        taps: list[Tap | None] = []
        if isinstance(side, int):
            with torch.no_grad():
                maps = self.run(torch.zeros(1, 3, side, side), frozenset(self.blocks))
            taps = [tap_of(name, value.shape, side, patch) for name, value in maps.items()]
            self.patch = patch if any(value.ndim == 3 for value in maps.values()) else None
        found = tuple(tap for tap in taps if tap)
        if not found or len(found) < len(taps):
            raise UsageError(
                f"The backbone {self.name} is neither convolutional nor a plain vision transformer: "
                "choose one that is, such as hub:microsoft/resnet-18 or hub:facebook/dinov2-small."
            )
        return found

    def run(self, x: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}

        def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def keep(_block: nn.Module, _given: Any, value: Any) -> None:
                out[name] = value[0] if isinstance(value, tuple) else value
                if len(out) == len(wanted):
                    raise DeepestReached

            return keep

        hooks = [self.blocks[name].register_forward_hook(keeper(name)) for name in wanted]
        try:
            with suppress(DeepestReached):
                self.tower(pixel_values=x, **self.options)
        finally:
            for hook in hooks:
                hook.remove()
        return out

    def features(self, x: Tensor, wanted: frozenset[str], after: str | None = None) -> dict[str, Tensor]:
        assert after is None, "a foreign network runs as a whole"
        if self.patch is None:
            return self.run(x, wanted)
        sides = [int(side) for side in x.shape[-2:]]
        rows, columns = (side // self.patch for side in sides)
        if sides != [rows * self.patch, columns * self.patch]:
            right = max(round(max(sides) / self.patch), 1) * self.patch
            raise UsageError(
                f"The backbone {self.name} works on patches of {self.patch} pixels, which do not divide "
                f"{sides[1]}×{sides[0]}: choose a size that they do, such as {right}."
            )
        # The patches come last, after the class token and any registers.
        return {
            name: tokens[:, -rows * columns :].transpose(1, 2).reshape(-1, tokens.shape[2], rows, columns)
            for name, tokens in self.run(x, wanted).items()
        }


def tap_of(name: str, shape: torch.Size, side: int, patch: int | None) -> Tap | None:
    match shape:
        case [_, channels, rows, columns] if rows == columns and side % rows == 0:
            return Tap(name, channels, side // rows)
        case [_, tokens, channels] if patch and tokens >= (side // patch) ** 2:
            return Tap(name, channels, patch)
    return None


def outermost_blocks(tower: nn.Module) -> dict[str, nn.Module]:
    lists = {path: part for path, part in tower.named_modules() if isinstance(part, nn.ModuleList)}
    if not lists:
        return {}
    path = max(lists, key=lambda path: sum(weight.numel() for weight in lists[path].parameters()))
    word = path.rpartition(".")[2].removesuffix("s")
    return {f"{word}{place}": block for place, block in enumerate(lists[path], start=1)}


def normalisation(model: str, local: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The model's own, as mean and deviation of pictures in 0..1."""
    from transformers import ImageProcessingMixin

    try:
        given, _ = ImageProcessingMixin.get_image_processor_dict(model, local_files_only=local)
    except OSError:
        return IMAGENET_MEAN, IMAGENET_STD
    normal = given.get("do_normalize", True)
    mean = given.get("image_mean", IMAGENET_MEAN) if normal else (0.0,) * 3
    std = given.get("image_std", IMAGENET_STD) if normal else (1.0,) * 3
    if given.get(
        "include_top", False
    ):  # EfficientNet's classifiers were trained on a deviation divided out twice
        std = [s * t for s, t in zip(std, given.get("image_std", IMAGENET_STD), strict=True)]
    # Models such as ALIGN get to -1..1 by their rescaling: x·255·factor − offset.
    factor = 255 * given.get("rescale_factor", 1 / 255)
    offset = 1 if given.get("rescale_offset", False) else 0
    return tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std)


def licence(model: str, local: bool) -> str:
    from huggingface_hub import metadata_load
    from transformers.utils import cached_file

    try:
        card = metadata_load(cached_file(model, "README.md", local_files_only=local))
    except OSError:
        return UNKNOWN_LICENCE
    return str((card or {}).get("license") or UNKNOWN_LICENCE)


def load(model: str) -> Hub:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError("transformers", "hub", f"The backbone hub:{model}") from error
    try:
        net, report = AutoModel.from_pretrained(
            model, local_files_only=Path(model).is_dir(), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"The backbone hub:{model} can't be loaded; check its id or folder and the connection: {reason}"
        ) from error
    # transformers fills absent weights with noise. Only parts that no tap needs may lack them.
    unneeded = ("text_model.", "pooler.", "vision_model.pooler.")
    if absent := [key for key in report["missing_keys"] if not key.startswith(unneeded)]:
        raise UsageError(
            f"The backbone hub:{model} lacks weights, such as {min(absent)}: choose a complete model."
        )
    return Hub(model, getattr(net, "vision_model", net).float())
