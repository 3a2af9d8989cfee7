"""Saliencies that need no weights of ours, and what every one of them holds to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets import lite0
from blemish.nets.attention import Attention
from blemish.nets.masking import Masking
from blemish.nets.runtime import export
from blemish.nets.saliency import (
    LEAST,
    ClassToken,
    DifferenceOfGaussians,
    FeatureNorm,
    SpectralResidual,
    framed,
    grey,
    shrunk,
    stretched,
)
from tests.nets.zoo import save_hub_model

SALIENCIES: dict[str, Callable[[Path], nn.Module]] = {
    "strokes": lambda _: Attention(),
    "strokes, three scales": lambda _: Attention(scales=(1, 0.5, 0.25)),
    "strokes, levelled": lambda _: Attention(levelled=True),
    "spectral": lambda _: SpectralResidual(),
    "dog": lambda _: DifferenceOfGaussians(),
    "vit": lambda folder: ClassToken(save_hub_model("vit", folder)),
    "dinov2": lambda folder: ClassToken(save_hub_model("dinov2", folder)),
}


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SALIENCIES)
def saliency(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    return SALIENCIES[request.param](tmp_path).eval()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@torch.no_grad()
def test_maps_are_shares_of_one(saliency: nn.Module, channels: int) -> None:
    for size in ((16, 16), (17, 45), (70, 101), (96, 64)):
        x = pictures(2, channels, *size)
        maps = saliency(x)
        assert maps.shape == (2, *size)
        assert (maps >= 0).all()
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
        assert torch.equal(maps, saliency(x))
        torch.testing.assert_close(saliency(x[1:])[0], maps[1], rtol=1e-4, atol=1e-7)  # alone or in a batch


@pytest.mark.parametrize("size", [(64, 64), (50, 91)])
@torch.no_grad()
def test_exported_graph_agrees(saliency: nn.Module, size: tuple[int, int]) -> None:
    graph = export(saliency, 3, size, ["maps"])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = pictures(count, 3, *size)
        (found,) = session.run(None, {"pixels": x.numpy()})
        expected = saliency(x).numpy()
        assert np.abs(found - expected).max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("kind", ["strokes", "strokes, three scales", "strokes, levelled", "spectral", "dog"])
@torch.no_grad()
def test_an_even_picture_has_an_even_map(kind: str, tmp_path: Path) -> None:
    """No strokes at its borders, whatever its brightness, and no mask."""
    saliency = SALIENCIES[kind](tmp_path)
    for level in (0.0, 0.3, 1.0):
        maps = saliency(torch.full((1, 3, 61, 90), level))
        torch.testing.assert_close(maps, torch.full_like(maps, 1 / maps.numel()), rtol=1e-4, atol=0)
        assert not Masking()(maps).any()


def test_grey() -> None:
    x = pictures(2, 4, 5, 6)
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(grey(x[:, :3])[:, 0], expected)
    for count in (1, 2, 4):
        torch.testing.assert_close(grey(x[:, :count])[:, 0], x[:, :count].mean(1))


def test_only_a_range_of_16_levels_or_more_is_stretched() -> None:
    x = pictures(1, 1, 20, 30)
    x = (x - x.min()) / (x.max() - x.min())
    for levels in (16, 40, 255):
        torch.testing.assert_close(stretched(0.2 + x * levels / 255), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(stretched(0.2 + x * 4 / 255), x / 4, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "margin"), [((9, 14), 5), ((16, 3), 16), ((1, 2), 7)])
def test_margins_are_mirrored_whatever_the_size(size: tuple[int, int], margin: int) -> None:
    x = pictures(2, 3, *size)
    rows, columns = (margin, margin + 2), (0, margin)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), rows, columns), "reflect")
    assert np.array_equal(framed(x, rows, columns).numpy(), expected)


def test_areas_are_averaged() -> None:
    x = pictures(2, 1, 12, 20)
    torch.testing.assert_close(shrunk(x, (4, 5)), torch.nn.functional.avg_pool2d(x, (3, 4)))
    torch.testing.assert_close(shrunk(x, (12, 20)), x)
    fine = x.repeat_interleave(7, 2).repeat_interleave(11, 3)  # a common multiple of old and new sides
    expected = torch.nn.functional.avg_pool2d(fine, (12, 20))
    torch.testing.assert_close(shrunk(x, (7, 11)), expected)


def test_spectral_residual_is_that_of_numpys_fourier_transform() -> None:
    """On a picture that is 64 pixels high already, by the authors' few lines."""
    x = pictures(1, 1, 64, 90)
    light = stretched(x)[0, 0].double().numpy()
    spectrum = np.fft.fft2(light)
    amplitude = np.sqrt(np.abs(spectrum) ** 2 + 0.1**2)
    residual = np.log(amplitude) - ndimage.uniform_filter(np.log(amplitude), 3, mode="wrap")
    back = np.fft.ifft2(np.exp(residual) / amplitude * spectrum) * light.size
    assert np.abs(back.imag).max() < 1e-9 * np.abs(back.real).max()
    energy = ndimage.gaussian_filter(np.abs(back) ** 2, 2.5, mode="mirror", radius=8)
    found = SpectralResidual()(x)[0].numpy()
    np.testing.assert_allclose(found, energy / energy.sum(), rtol=1e-3)


def test_difference_of_gaussians_is_that_of_scipy() -> None:
    x = pictures(1, 1, 50, 70)
    light = stretched(x)[0, 0].double().numpy()

    def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
        return ndimage.gaussian_filter(picture, sigma, mode="mirror", radius=int(np.ceil(3 * sigma)))

    energy = LEAST + sum(
        blurred((blurred(light, sigma) - blurred(light, 1.6 * sigma)) ** 2, sigma) for sigma in (1, 2, 4)
    )
    np.testing.assert_allclose(DifferenceOfGaussians()(x)[0].numpy(), energy / energy.sum(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers", "clip-vision"])
@torch.no_grad()
def test_class_token_is_what_eager_attention_gives(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = save_hub_model(kind, tmp_path)
    saliency = ClassToken(folder)
    patch = saliency.backbone.patch
    assert patch is not None
    x = pictures(2, 3, 5 * patch, 3 * patch)
    backbone = saliency.backbone
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    given = backbone.normalised(x)
    weights = model(given, output_attentions=True, **backbone.options).attentions[-1]
    cells = weights[:, :, 0, -15:].mean(1).reshape(2, 1, 5, 3)
    maps = torch.nn.functional.interpolate(cells, (5 * patch, 3 * patch), mode="bilinear")[:, 0]
    expected = maps / maps.sum((1, 2), keepdim=True)
    torch.testing.assert_close(saliency(x), expected, rtol=1e-4, atol=1e-8)


@torch.no_grad()
def test_patches_need_not_divide_the_picture(tmp_path: Path) -> None:
    saliency = ClassToken(save_hub_model("vit", tmp_path))
    x = pictures(1, 3, 37, 50)
    whole = saliency(framed(x, (0, 3), (0, 6)))[:, :37, :50]
    torch.testing.assert_close(saliency(x), whole / whole.sum())


@pytest.mark.parametrize("kind", ["resnet", "siglip-vision"])
def test_models_without_a_class_token_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{kind} has no class token .* such as facebook/dino-vits8\."):
        ClassToken(save_hub_model(kind, tmp_path))


def test_tokens_turned_by_their_place_are_refused(tmp_path: Path) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        image_size=32,
    )
    DINOv3ViTModel(config).save_pretrained(tmp_path / "turned")
    with pytest.raises(UsageError, match="turned has no class token whose attention can be read"):
        ClassToken(str(tmp_path / "turned"))


@pytest.mark.parametrize("channels", [1, 3, 5])
@torch.no_grad()
def test_what_a_network_sees_elsewhere_than_on_average_catches_the_eye(channels: int) -> None:
    good = 0.5 + 0.05 * pictures(6, channels, 120, 128)
    norm = FeatureNorm(lite0.load(), [good[:4], good[4:]])
    bad = good[:1].clone()
    bad[..., 64:96, 96:128] = pictures(1, channels, 32, 32, seed=1)
    maps = norm(bad)
    assert maps.shape == (1, 120, 128)
    torch.testing.assert_close(maps.sum(), torch.tensor(1.0))
    assert maps[0, 64:96, 96:].mean() > 2 * maps[0, :, :48].mean()
    session = onnxruntime.InferenceSession(export(norm, channels, (120, 128), ["maps"]))
    (found,) = session.run(None, {"pixels": bad.numpy()})
    np.testing.assert_allclose(found, maps.numpy(), atol=1e-4 * float(maps.max()))
