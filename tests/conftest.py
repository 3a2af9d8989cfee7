import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores; torch is imported after this

import numpy as np
import pytest
from onnx import TensorProto, checker, helper

from blemish.model import Calibration, Inspector
from blemish.model.archive import Archive


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws is its own, in whatever order tests run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def toy_graph(constant: float, *, nearest: bool = False) -> bytes:
    """Every pixel's mean distance over channels to a constant; the score is the highest of them."""
    nodes = [
        helper.make_node("Sub", ["pixels", "constant"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("ReduceMean", ["distance", "channel"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "plane"], ["pred_score"], keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["n", "h", "w"]),
    ]
    if nearest:
        nodes.append(helper.make_node("Cast", ["pred_score"], ["truncated"], to=TensorProto.INT64))
        nodes.append(helper.make_node("Mul", ["truncated", "zero"], ["nearest_image"]))
        outputs.append(helper.make_tensor_value_info("nearest_image", TensorProto.INT64, ["n"]))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        outputs,
        [
            helper.make_tensor("constant", TensorProto.FLOAT, [], [constant]),
            helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
            helper.make_tensor("plane", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def _toy_model(
    *,
    size: tuple[int, int] = (16, 16),
    constant: float = 0.5,
    good_scores: Sequence[float] = tuple(np.linspace(0.05, 0.1, 99)),
    nearest: bool = False,
    channels: int = 3,
    **manifest: Any,
) -> Inspector:
    told = {
        "method": "toy",
        "preset": "fast",
        "backbone": "none",
        "size": list(size),
        "seed": 0,
        "n_train": 20,
        "n_calibration": len(good_scores),
        "fit_seconds": 1.5,
        "peak_rss_mb": 123.0,
        "dataset": "toys",
        "format": {"dtype": "uint8", "channels": channels, "black": 0.0, "white": 255.0},
        "remembered": ["train/good/000.png"],
    }
    calibration = Calibration.of(good_scores, good_scores).to_json()
    return Inspector(
        Archive(told | manifest, toy_graph(constant, nearest=nearest), calibration, b""), threads=1
    )


@pytest.fixture(scope="session")
def toy_model() -> Callable[..., Inspector]:
    """Builds models without torch: a picture's score is the largest distance of a pixel to mid-grey."""
    return _toy_model
