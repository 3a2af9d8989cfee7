"""Where a picture catches the eye: pictures in 0..1 → maps (N, H, W) that are not negative and sum to 1.

What all such maps share, and those that need no weights of ours: the spectral residual (Hou & Zhang, CVPR
2007), the energy of differences of Gaussians, what a frozen network sees elsewhere than on average, and the
class token's attention in a vision transformer (DINO's visualisation, Caron et al., arXiv 2104.14294). Each
may stand in for the stroke attention of EAR.
"""

from collections.abc import Iterable
from math import ceil, pi, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.defects.augment import LUMA
from blemish.errors import UsageError
from blemish.nets import hub
from blemish.nets.backbone import Backbone, colour_groups

Array = NDArray[np.float64]

FLOOR = 16 / 255
"""The least range that is stretched to 0..1: noise on a flat picture is not."""
LEAST = 1e-6
"""Energy that is added everywhere, so that an even picture has an even map."""


def size_of(pictures: Tensor) -> tuple[int, int]:
    """Plain numbers, and so constants in a traced graph."""
    return int(pictures.shape[-2]), int(pictures.shape[-1])


def grey(pictures: Tensor) -> Tensor:
    channels = int(pictures.shape[1])  # a constant in a traced graph
    shares = LUMA if channels == 3 else np.full(channels, 1 / channels)
    return (pictures * pictures.new_tensor(shares)[:, None, None]).sum(1, keepdim=True)


def stretched(light: Tensor) -> Tensor:
    """Each picture (N, 1, H, W) from 0 to 1."""
    low, high = light.amin((2, 3), keepdim=True), light.amax((2, 3), keepdim=True)
    return (light - low) / (high - low).clamp(min=FLOOR)


def framed(pictures: Tensor, rows: tuple[int, int], columns: tuple[int, int], how: str = "reflect") -> Tensor:
    """Margins of so many pixels, mirrored as often as it takes: torch's own may not exceed the picture."""
    for axis, side, margins in zip((-2, -1), size_of(pictures), (rows, columns), strict=True):
        order = np.pad(np.arange(side), margins, how)  # type: ignore[call-overload]
        pictures = pictures.index_select(axis, torch.from_numpy(order).to(pictures.device))
    return pictures


def shrunk(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Means over areas. As products of matrices they need not divide the picture, and export."""
    by_row, by_column = (
        pictures.new_tensor(overlaps(new, old)) for new, old in zip(size, size_of(pictures), strict=True)
    )
    return by_row @ pictures @ by_column.T


def overlaps(outputs: int, inputs: int) -> Array:
    """Which share of each output's stretch each input covers."""
    edges = np.arange(outputs + 1)[:, None] * inputs / outputs
    pixel = np.arange(inputs)
    common = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return common.clip(0) * outputs / inputs


def spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells (N, h, w) over a picture of that size."""
    return F.interpolate(cells[:, None], size, mode="bilinear")[:, 0]


def shares(maps: Tensor) -> Tensor:
    return maps / maps.sum((1, 2), keepdim=True)


class SpectralResidual(nn.Module):
    """What stands out of the smooth spectrum of a picture reduced to 64 pixels.

    The Fourier transform is two products of matrices, as torch's own does not export.
    """

    side = 64
    blur = 2.5
    least = 0.1
    """Of amplitudes: what is less than a grey level is rounding."""

    def forward(self, pictures: Tensor) -> Tensor:
        light = stretched(grey(pictures))
        full = size_of(light)
        shrink = min(self.side / min(full), 1)
        height, width = (round(side * shrink) for side in full)
        rows, columns = (tuple(map(light.new_tensor, waves(side))) for side in (height, width))
        real, imaginary = turned(shrunk(light, (height, width)), rows, columns)
        amplitude = (real.square() + imaginary.square() + self.least**2).sqrt()
        smooth = F.avg_pool2d(framed(amplitude.log(), (1, 1), (1, 1), "wrap"), 3, 1).exp()
        # The inverse transform; of a real picture only the real part is left.
        back = turned(real / smooth, rows, columns)[0] + turned(imaginary / smooth, rows, columns)[1]
        return shares(spread(blurred(back.square() + LEAST, self.blur)[:, 0], full))


def waves(side: int) -> tuple[Array, Array]:
    turns = 2 * pi * np.outer(np.arange(side), np.arange(side)) / side
    return np.cos(turns), np.sin(turns)


def turned(light: Tensor, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Real part of the Fourier transform, and the imaginary one with its sign changed."""
    (row_cos, row_sin), (cos, sin) = rows, columns
    return (
        row_cos @ light @ cos - row_sin @ light @ sin,
        row_sin @ light @ cos + row_cos @ light @ sin,
    )


class DifferenceOfGaussians(nn.Module):
    """Energy of what lies between two blurs, summed over three scales."""

    sigmas = (1.0, 2.0, 4.0)
    ratio = 1.6

    def forward(self, pictures: Tensor) -> Tensor:
        light = stretched(grey(pictures))
        energies = [
            blurred((blurred(light, sigma) - blurred(light, self.ratio * sigma)).square(), sigma)
            for sigma in self.sigmas
        ]
        return shares(torch.cat(energies, dim=1).sum(1) + LEAST)


def blurred(light: Tensor, sigma: float) -> Tensor:
    reach = ceil(3 * sigma)
    window = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    weight = light.new_tensor(window / window.sum())
    light = framed(light, (reach, reach), (reach, reach))
    return F.conv2d(F.conv2d(light, weight[None, None, :, None]), weight[None, None, None, :])


class FeatureNorm(nn.Module):
    """How far a network's deepest map is from its mean over good pictures of the same size: at each place,
    for at borders it is always another."""

    def __init__(self, backbone: Backbone, good: Iterable[Tensor]) -> None:
        super().__init__()
        self.backbone = backbone.quick()
        self.tap = backbone.taps[-1]
        with torch.no_grad():
            maps = torch.cat([self.deepest(pictures) for pictures in good])
        self.mean: Tensor
        self.register_buffer("mean", maps.mean(0))

    def deepest(self, pictures: Tensor) -> Tensor:
        (height, width), stride = size_of(pictures), self.tap.stride
        whole = framed(pictures, (0, -height % stride), (0, -width % stride))
        groups = [self.backbone(group, (self.tap.name,))[0] for group in colour_groups(whole)]
        return torch.stack(groups).mean(0)

    def forward(self, pictures: Tensor) -> Tensor:
        height, width = size_of(pictures)
        far = (self.deepest(pictures) - self.mean).square().sum(1).sqrt()
        whole = (
            -(-height // self.tap.stride) * self.tap.stride,
            -(-width // self.tap.stride) * self.tap.stride,
        )
        return shares(spread(far + LEAST, whole)[:, :height, :width])


class ClassToken(nn.Module):
    """How the class token of a vision transformer's last block attends to the patches, mean over heads.

    Taken from the block's projections: the kernels that transformers uses give no weights, and one query is
    all it takes. `model` is an id of Hugging Face transformers or a local folder.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.backbone = hub.load(model)
        last = list(self.backbone.blocks.values())[-1]
        parts = {name.rpartition(".")[2]: part for name, part in last.named_modules()}
        # transformers 4 says query and key in some models.
        found = [parts.get("q_proj", parts.get("query")), parts.get("k_proj", parts.get("key"))]
        self.projections = [part for part in found if part is not None]
        tokens = {name.rpartition(".")[2] for name, _ in self.backbone.named_parameters()}
        turning = any("rope" in name for name, _ in self.backbone.named_modules())
        if len(self.projections) < 2 or turning or tokens.isdisjoint({"cls_token", "class_embedding"}):
            raise UsageError(
                f"The backbone {self.backbone.name} has no class token whose attention can be read: choose a "
                "plain vision transformer that has one, such as facebook/dino-vits8."
            )
        config: Any = self.backbone.tower.config
        self.heads: int = config.num_attention_heads

    def forward(self, pictures: Tensor) -> Tensor:
        height, width = size_of(pictures)
        patch = self.backbone.patch or 1
        rows, columns = -(-height // patch), -(-width // patch)
        whole = framed(pictures, (0, rows * patch - height), (0, columns * patch - width))
        groups = [self.attended(group)[:, -rows * columns :] for group in colour_groups(whole)]
        cells = torch.stack(groups).mean(0).reshape(-1, rows, columns)
        return shares(spread(cells, (rows * patch, columns * patch))[:, :height, :width])

    def attended(self, pictures: Tensor) -> Tensor:
        """How much the class token attends to every token (N, T)."""
        out: dict[nn.Module, Tensor] = {}

        def keep(part: nn.Module, _given: Any, value: Tensor) -> None:
            heads = value.reshape(-1, value.shape[1], self.heads, value.shape[2] // self.heads)
            out[part] = heads.transpose(1, 2)

        hooks = [part.register_forward_hook(keep) for part in self.projections]
        try:
            self.backbone.tower(pixel_values=self.backbone.normalised(pictures), **self.backbone.options)
        finally:
            for hook in hooks:
                hook.remove()
        queries, keys = (out[part] for part in self.projections)
        alike = queries[:, :, :1] @ keys.transpose(2, 3) / sqrt(int(keys.shape[3]))
        return alike.softmax(3).mean(1)[:, 0]
