"""A model to reason about: its anomaly map is the mean of the channels, its score the map's maximum."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from blemish.model import Calibration, Inspector
from blemish.model.archive import Archive

SIZE = (24, 32)


def graph(
    *,
    channels: int = 3,
    map_scale: float = 1.0,
    score_scale: float = 1.0,
    nearest: bool = False,
    classes: bool = False,
    told: bool = False,
    score: str = "pred_score",
) -> bytes:
    """NaN as a scale makes a broken model.

    `classes`: as much as a picture is grey it shows the second of two, bright. `told` that it is bright, the
    score is one less.
    """
    scales = {"map_scale": np.float32(map_scale), "score_scale": np.float32(score_scale)}
    constants = {"colour": [1], "space": [1, 2], "half": np.float32(0.5), **scales}
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "colour"], ["grey"], keepdims=0),
        helper.make_node("Mul", ["grey", "map_scale"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["grey", "space"], ["worst"], keepdims=0),
        helper.make_node("Mul", ["worst", "score_scale"], [score]),
    ]
    outputs = [
        helper.make_tensor_value_info(score, TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["n", *SIZE]),
    ]
    if nearest:
        nodes += [
            helper.make_node("Greater", [score, "half"], ["bright"]),
            helper.make_node("Cast", ["bright"], ["nearest_image"], to=TensorProto.INT64),
        ]
        outputs.append(helper.make_tensor_value_info("nearest_image", TensorProto.INT64, ["n"]))
    if classes:
        nodes += [
            helper.make_node("ReduceMean", ["grey", "space"], ["light"], keepdims=0),
            helper.make_node("Sub", ["one", "light"], ["shade"]),
            helper.make_node("Unsqueeze", ["light", "last"], ["bright_share"]),
            helper.make_node("Unsqueeze", ["shade", "last"], ["dark_share"]),
            helper.make_node("Concat", ["dark_share", "bright_share"], ["class_scores"], axis=1),
        ]
        constants |= {"one": np.float32(1), "last": [1]}
        outputs.append(helper.make_tensor_value_info("class_scores", TensorProto.FLOAT, ["n", 2]))
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", channels, *SIZE])]
    if told:
        nodes[3] = helper.make_node("Mul", ["worst", "score_scale"], ["untold"])
        nodes += [
            helper.make_node("MatMul", ["classes", "less"], ["off"]),
            helper.make_node("Sub", ["untold", "off"], [score]),
        ]
        constants["less"] = np.array([0, 1], np.float32)
        inputs.append(helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 2]))
    known = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", inputs, outputs, known),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def archive(*, channels: int = 3, dtype: str = "uint8", weights: bytes = b"", **options: Any) -> Archive:
    calibration = Calibration.of(np.linspace(0.1, 0.3, 150), np.linspace(0.1, 0.3, 150))
    white = {"uint8": 255.0, "uint16": 4095.0, "float32": 1.0}[dtype]
    manifest = {
        "size": list(SIZE),
        "format": {"dtype": dtype, "channels": channels, "black": 0.0, "white": white},
        "remembered": ["dark.png", "bright.png"],
        "method": "toy",
    }
    return Archive(manifest, graph(channels=channels, **options), calibration.to_json(), weights)


def inspector(**options: Any) -> Inspector:
    return Inspector(archive(**options), name="toy.blemish")
