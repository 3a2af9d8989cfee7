"""From a torch module to an ONNX graph, and torch modules run through it.

On a plain CPU ONNX Runtime runs these networks several times faster than torch does, so pictures go through
it already while fitting: the features that are remembered come from the runtime that will inspect.
"""

import io
import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

OPSET = 18


def export(
    module: nn.Module, channels: int, size: tuple[int, int], outputs: Sequence[str], *, classes: int = 0
) -> bytes:
    """The module as it stands, from `pixels` (N, channels, *size) to the named outputs, for any N.

    With `classes` it is also given (N, classes): which class each picture shows.
    """
    buffer = io.BytesIO()
    training = module.training
    inputs = {"pixels": torch.rand(2, channels, *size)}
    if classes:
        inputs["classes"] = torch.zeros(2, classes)
    with warnings.catch_warnings(), torch.no_grad():
        # Traced: shapes are constants by design, and tracing is over ten times quicker than torch.export.
        # What the tracer warns of is just that, and that it is the older of two ways.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.cpu().eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]  # right for the traced exporter
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in (*inputs, *outputs)},
        )
    module.train(training)
    return buffer.getvalue()


class Compiled:
    """A module from one batch to one tensor, run by ONNX Runtime on CPU and by torch elsewhere."""

    def __init__(self, module: nn.Module, channels: int, size: tuple[int, int], device: torch.device) -> None:
        self.device = device
        # A copy elsewhere: the module stays where the rest of a fit expects it.
        self.module = (module if device.type == "cpu" else deepcopy(module).to(device)).eval()
        self.session: Any = None
        if device.type == "cpu":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            # Its threads must not spin while torch's work: both have the same few cores.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = onnxruntime.InferenceSession(
                export(module, channels, size, ["out"]), options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, batch: NDArray[np.float32]) -> Tensor:
        return self.run(torch.from_numpy(batch).to(self.device)).cpu()

    def run(self, batch: Tensor) -> Tensor:
        """The same from and to tensors on the module's device."""
        if self.session is not None:
            return torch.from_numpy(self.session.run(None, {"pixels": batch.numpy()})[0])
        with torch.no_grad():
            out: Tensor = self.module(batch)
            return out
