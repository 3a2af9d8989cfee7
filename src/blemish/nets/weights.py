"""State-dict files in, without ever running what is in them."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blemish.errors import UsageError
from blemish.nets.backbone import Backbone


def read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"The weights file {path} does not exist: check the path.")
    if path.suffix not in {".safetensors", ".pth", ".pt"}:
        raise UsageError(f"The weights file {path} must be a .safetensors, .pth or .pt state dict.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UsageError(
            f"The weights file {path} can't be read: it is damaged or holds more than tensors. "
            "Save the network's state_dict() as safetensors."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(
            f"The weights file {path} holds no state dict: save the network's state_dict() alone."
        )
    return dict(state)


def fill(backbone: Backbone, state: Mapping[str, Tensor], path: Path) -> None:
    own = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    counters = {
        key for key in own if key.endswith("num_batches_tracked")
    }  # absent from older files, unused here
    faults = [f"{key} is missing" for key in own if key not in given and key not in counters]
    faults += [
        f"{key} is {given[key]} instead of {shape}"
        for key, shape in own.items()
        if given.get(key, shape) != shape
    ]
    faults += [f"{key} is unknown" for key in given if key not in own]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UsageError(
            f"The weights file {path} is not one of {backbone.name}: {'; '.join(faults[:3])}{more}. "
            "Pass the file of that network, or name the backbone that it belongs to."
        )
    backbone.load_state_dict(dict(state), strict=False)
