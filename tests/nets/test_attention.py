"""EAR's attention: the network, the weights that ship, and what they find."""

from math import cos, pi, sin
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.ear import Config, saliency_of
from blemish.nets import attention as module
from blemish.nets.attention import Attention, Classifier, Trunk
from blemish.nets.masking import Hiding, Masking
from blemish.nets.runtime import export
from blemish.nets.saliency import DifferenceOfGaussians, SpectralResidual, spread

SHIPPED = sorted(
    path.stem.partition("-")[2] for path in Path(module.__file__).parent.glob("attention-*.safetensors")
)


def scratched(
    angle: float, level: float, size: tuple[int, int] = (128, 192), thickness: int = 3
) -> tuple[Tensor, np.ndarray]:
    """A flat picture of mid-grey with one scratch, and where it is."""
    height, width = size
    along = 0.2 * min(size) * np.array([cos(angle), sin(angle)])
    middle = np.array([0.4 * width, 0.55 * height])
    ends = [tuple(int(value) for value in np.rint(middle + sign * along)) for sign in (-1, 1)]
    drawn = cv2.line(np.zeros(size, np.uint8), *ends, 1, thickness).astype(bool)
    picture = np.where(drawn, level, 0.5).astype(np.float32)
    return torch.from_numpy(picture).expand(1, 3, -1, -1), drawn


def test_the_layers_are_those_of_the_paper() -> None:
    network = Classifier()
    assert sum(weight.numel() for weight in network.trunk.parameters()) == 65_057
    features, logits = network.trunk(torch.rand(2, 1, 28, 28))
    assert features.shape == (2, 64, 7, 7)
    assert logits.shape == (2, 1, 7, 7)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, nn.Linear)] == [
        (128, 512),
        (10, 128),
    ]


def test_a_cell_sees_16_pixels() -> None:
    light = torch.rand(1, 1, 64, 64, requires_grad=True)
    trunk = Trunk()
    for weight in trunk.parameters():
        nn.init.uniform_(weight, 0.01, 0.02)  # nothing cancels, and no ReLU is shut
    _, logits = trunk(light)
    torch.autograd.backward(logits[0, 0, 8, 8])
    assert light.grad is not None
    rows = light.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 <= 16
    assert 32 - 6 <= int(rows.min()) <= 32
    assert 35 <= int(rows.max()) <= 35 + 6


def test_attention_weighs_places() -> None:
    """Where the logits leave one place only, nothing else has a say."""
    network = Classifier()
    nn.init.zeros_(network.trunk.logits.weight)
    light = torch.rand(1, 1, 28, 28)
    features, _ = network.trunk(light)
    expected = network.head(network.widen(features / 49).mean((2, 3)))
    torch.testing.assert_close(network(light), expected)


@pytest.mark.parametrize("weights", SHIPPED)
def test_shipped_weights_tell_where_they_come_from(weights: str) -> None:
    attention = Attention(weights)
    told = attention.provenance
    keys = "data licence epochs seed held_out_accuracy held_out_pictures attention_on_strokes date command"
    assert set(told) == set(keys.split())
    assert float(told["held_out_accuracy"]) >= 0.98
    assert float(told["attention_on_strokes"]) >= 2
    assert "/" not in told["command"].replace("tools/train_attention.py", "")
    file = Path(module.__file__).with_name(f"attention-{weights}.safetensors")
    assert file.stat().st_size < 270_000
    assert not any(weight.requires_grad for weight in attention.parameters())
    assert not attention.trunk.training


SCRATCHES = [(angle, level) for angle in (0, 0.2 * pi, 0.5 * pi, 0.85 * pi) for level in (0.1, 0.35, 0.9)]


@pytest.mark.parametrize("saliency", [*SHIPPED, "dog", "spectral"])
@torch.no_grad()
def test_a_scratch_is_covered_and_not_much_else(saliency: str) -> None:
    weight_free = {"spectral": SpectralResidual, "dog": DifferenceOfGaussians}
    attend = weight_free[saliency]() if saliency in weight_free else Attention(saliency)
    least = 0.6 if saliency == "spectral" else 0.8  # of a straight line a spectrum shows the ends
    for angle, level in SCRATCHES:
        picture, drawn = scratched(angle, level)
        mask = Masking()(attend(picture))[0].numpy() > 0
        assert mask[drawn].mean() >= least
        assert mask.mean() < 0.25


@torch.no_grad()
def test_as_a_method_looks_a_scratch_is_covered_and_not_much_else() -> None:
    config = Config()
    masking = Masking(config.rule, -(-config.dilation // config.reduction))
    hiding = Hiding(saliency_of(config), masking, config.reduction)
    for angle, level in SCRATCHES:
        picture, drawn = scratched(angle, level)
        mask = hiding(picture)[0].numpy() > 0
        assert mask[drawn].mean() >= 0.8
        assert mask.mean() < 0.25


@pytest.mark.parametrize("weights", SHIPPED)
@torch.no_grad()
def test_it_is_the_stroke_that_is_looked_at(weights: str) -> None:
    """And by the polarity that the stroke has: a net may learn to look beside strokes."""
    for angle, level in SCRATCHES:
        picture, drawn = scratched(angle, level)
        own, other = ("bright", "dark") if level > 0.5 else ("dark", "bright")
        on, off = (Attention(weights, polarity=kind)(picture)[0].numpy() for kind in (own, other))  # type: ignore[arg-type]
        assert on[drawn].mean() > 5 * on[~drawn].mean()
        assert on[drawn].mean() > 2 * off[drawn].mean()


@torch.no_grad()
def test_polarity() -> None:
    bright, dark, both = (Attention(polarity=kind) for kind in ("bright", "dark", "both"))  # type: ignore[arg-type]
    x = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bright(x), dark(1 - x), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(both(x), both(1 - x), rtol=1e-3, atol=1e-8)
    highest = torch.maximum(bright(x), dark(x))
    torch.testing.assert_close(both(x), highest / highest.sum((1, 2), keepdim=True), rtol=1e-3, atol=1e-8)


@torch.no_grad()
def test_a_scale_looks_at_the_reduced_picture() -> None:
    small = torch.rand(1, 3, 30, 42, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    for polarity in ("bright", "dark"):
        found = Attention(scales=(0.25,), polarity=polarity)(large)  # type: ignore[arg-type]
        expected = spread(Attention(polarity=polarity)(small), (120, 168))  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-3, atol=1e-9)


@torch.no_grad()
def test_levelled_light_does_not_outshine_a_faint_scratch() -> None:
    picture, drawn = scratched(0.7, 0.6)
    across = torch.linspace(0, 0.4, picture.shape[3])
    plain, levelled = (
        Masking()(Attention(levelled=kind)(picture * 0.5 + across))[0].numpy() > 0 for kind in (False, True)
    )
    assert plain[drawn].mean() < 0.5
    assert levelled[drawn].mean() >= 0.8
    assert levelled.mean() < 0.25


@torch.no_grad()
def test_what_shows_at_one_scale_shows_in_the_mean() -> None:
    x = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    one, other, mean = (
        Attention(scales=scales, polarity="bright")(x) for scales in ((1.0,), (0.5,), (1, 0.5))
    )
    torch.testing.assert_close(mean, (one + other) / 2)


class Mask(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.attention, self.masking = Attention(), Masking(rule)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.masking(self.attention(pictures))


@pytest.mark.parametrize("rule", ["tukey", "top5", "otsu"])
@torch.no_grad()
def test_masks_of_pictures_are_the_same_in_the_exported_graph(rule: str) -> None:
    """But for what depends on a pixel that both find within rounding of the threshold."""
    network = Mask(rule)
    graph = export(network, 3, (96, 80), ["masks"])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    x = nn.functional.interpolate(x, (96, 80), mode="bicubic").clamp(0, 1)
    masks = network(x)
    assert torch.equal(masks, network(x))
    (found,) = session.run(None, {"pixels": x.numpy()})
    assert np.array_equal(found, session.run(None, {"pixels": x.numpy()})[0])
    assert 0.02 < masks.mean() <= 0.5

    values = network.attention(x).flatten(1).double()
    threshold = module_threshold(rule, values)
    unsure = ((values - threshold).abs() <= 1e-5 * threshold).view_as(masks).float()
    reach = nn.functional.max_pool2d(unsure, 31, 1, 15).numpy() > 0  # a speck's length, then the dilation
    assert reach.mean() < 0.5
    assert not (found != masks.numpy())[~reach].any()


def module_threshold(rule: str, values: Tensor) -> Tensor:
    from blemish.nets.masking import RULES

    return RULES[rule](values)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no attention weights 'cifar': choose among .*strokes, or make them"
    ):
        Attention("cifar")
    with pytest.raises(UsageError, match="no polarity 'grey': choose among bright, dark, both"):
        Attention(polarity="grey")  # type: ignore[arg-type]
    for scales in ((), (2.0,), (1, 0)):
        with pytest.raises(UsageError, match="above 0 and up to 1"):
            Attention(scales=scales)
    with pytest.raises(UsageError, match=r"absent\.safetensors does not exist"):
        Attention(tmp_path / "absent.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(UsageError, match=r"other\.safetensors is not one of EAR's attention"):
        Attention(other)
