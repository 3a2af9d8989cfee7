"""A picture against its reconstruction: losses to train on, error maps to inspect by, and RIAD's passes.

Papers: SSIM, Wang et al., 2004; gradient magnitude similarity, Xue et al., arXiv 1308.3052; reconstruction by
inpainting and its losses, Zavrtanik et al. (RIAD), Pattern Recognition 112, 2021.
Ours: borders are mirrored or repeated, for zeros beyond would be the strongest edge of both pictures and hide
what differs there; RIAD's masks are drawn once for inspection, so that a picture always scores the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, sqrt
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Parts = Literal["l2", "l2+ssim", "l2+ssim+msgms"]
Summary = Literal["max", "top"]
Region = Literal["all", "mask", "mask+ring"]

LIGHTNESS, CONTRAST = 0.01**2, 0.03**2
"""SSIM's constants."""
WINDOW, REACH = 1.5, 5
"""Of SSIM: standard deviation and half the side of its Gaussian window, 11 × 11."""
STEEPNESS = 0.0026
"""GMS's constant."""
TOP = 0.001
"""Share of the pixels whose mean is the image score `top`."""
RING = 8.0
"""Width of the ring around the mask, in pixels of a 256-pixel picture."""
SQUARE = 16
"""Side of random squares, in pixels of a 256-pixel picture."""
CELLS = (2, 4, 8, 16)
"""RIAD's sizes of hidden squares."""


def gaussian(sigma: float, reach: int) -> Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.double) / sigma) ** 2)
    return kernel / kernel.sum()


def filtered(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Every channel by the same kernel, without a border."""
    channels = int(x.shape[1])
    return F.conv2d(x, kernel.to(x).expand(channels, 1, -1, -1), stride=stride, groups=channels)


def halved(x: Tensor) -> Tensor:
    """Means of 2 × 2; for three channels a convolution is several times quicker at it than a pooling."""
    return filtered(x, torch.full((2, 2), 0.25), 2)


def blurred(x: Tensor, kernel: Tensor) -> Tensor:
    return filtered(filtered(x, kernel[:, None]), kernel[None])


def ssim_error(x: Tensor, rebuilt: Tensor) -> Tensor:
    """(1 − SSIM) / 2 of each pixel and channel.

    Each factor of SSIM as one less an error. With the difference and its square four moments are enough where
    the definition has five, no digits are lost where the pictures are alike, and equal ones give exactly 0.
    """
    window = gaussian(WINDOW, REACH)
    x, rebuilt = (F.pad(each, (REACH,) * 4, mode="reflect") for each in (x, rebuilt))
    difference = x - rebuilt
    moments = torch.cat([difference, difference.square(), x.square() + rebuilt.square()], 1)
    shift, distance, power = blurred(moments, window).chunk(3, 1)
    mean = blurred(x, window)  # apart from the others, for the target needs no gradient
    level = mean.square() + (mean - shift).square()
    lightness = shift.square() / (level + LIGHTNESS)
    contrast = (distance - shift.square()) / (power - level + CONTRAST)
    return (lightness + contrast - lightness * contrast) / 2


def gradient(x: Tensor) -> Tensor:
    """Square of its magnitude, by Prewitt's kernels."""
    x = F.pad(x, (1,) * 4, mode="replicate")
    across = torch.tensor([-1.0, 0.0, 1.0]).expand(3, 3) / 3
    return filtered(x, across).square() + filtered(x, across.T).square() + 1e-12


def gms_errors(x: Tensor, rebuilt: Tensor) -> list[Tensor]:
    """1 − GMS of each pixel and channel at full, half and quarter size, and an eighth from 256 pixels on."""
    errors = []
    for scale in range(4 if min(x.shape[-2:]) >= 256 else 3):
        if scale:
            x, rebuilt = halved(x), halved(rebuilt)
        one, other = gradient(x), gradient(rebuilt)
        # The same as 1 − (2ab + c) / (a² + b² + c), without the loss of digits.
        errors.append((one.sqrt() - other.sqrt()).square() / (one + other + STEEPNESS))
    return errors


def msgms_map(x: Tensor, rebuilt: Tensor) -> Tensor:
    """(N, H, W): 1 − MSGMS, mean over channels; 0 where the two are the same."""
    enlarge = partial(F.interpolate, size=[int(side) for side in x.shape[-2:]], mode="bilinear")
    full, *coarse = (error.mean(1, keepdim=True) for error in gms_errors(x, rebuilt))
    return sum(map(enlarge, coarse), full)[:, 0] / (1 + len(coarse))


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum of equal parts, for pictures in 0..1."""

    parts: Parts = "l2+ssim+msgms"
    half: bool = False
    """Whether SSIM is that of the pictures at half size, which takes a quarter of the time."""

    def errors(self, x: Tensor, rebuilt: Tensor) -> list[tuple[float, Tensor]]:
        """Weights, and maps of the whole picture at different sizes."""
        # SSIM's variances are differences of means, of which 16 bits leave nothing.
        with torch.autocast(x.device.type, enabled=False):
            # On CPU the filters of three channels are several times faster so.
            x, rebuilt = (each.float().contiguous(memory_format=torch.channels_last) for each in (x, rebuilt))
            errors = [(1.0, (x - rebuilt).square())]
            if "ssim" in self.parts:
                pair = (halved(x), halved(rebuilt)) if self.half else (x, rebuilt)
                errors.append((1.0, ssim_error(*pair)))
            if "msgms" in self.parts:
                scales = gms_errors(x, rebuilt)
                errors += [(1 / len(scales), error) for error in scales]
        return errors

    def __call__(self, x: Tensor, rebuilt: Tensor) -> Tensor:
        # Bilinear enlargement by 2, 4 or 8 keeps the mean, so the mean of MSGMS needs none.
        return torch.stack([weight * error.mean() for weight, error in self.errors(x, rebuilt)]).sum()

    @torch.no_grad()
    def inside_and_outside(self, x: Tensor, rebuilt: Tensor, mask: Tensor) -> tuple[float, float]:
        """The loss over the pixels of a mask (N, 1, H, W), and over the others: to watch, not to train on."""
        sums = [0.0, 0.0]
        for weight, error in self.errors(x, rebuilt):
            inside = F.interpolate(mask.float(), error.shape[-2:], mode="area")
            for place, share in enumerate((inside, 1 - inside)):
                total = (error.mean(1, keepdim=True) * share).sum() / share.sum().clamp(min=1e-6)
                sums[place] += weight * float(total)
        return sums[0], sums[1]


class Smooth(nn.Module):
    """A Gaussian blur of error maps (N, H, W); `sigma` is in pixels of a 256-pixel picture, 0 for none."""

    def __init__(self, size: tuple[int, int], sigma: float) -> None:
        super().__init__()
        sigma *= scale_of(size)
        self.reach = min(ceil(4 * sigma), min(size) - 1)
        self.kernel = gaussian(sigma, self.reach) if sigma else torch.ones(1)

    def forward(self, error: Tensor) -> Tensor:
        if not self.reach:
            return error
        return blurred(F.pad(error[:, None], (self.reach,) * 4, mode="reflect"), self.kernel)[:, 0]


def scale_of(size: Sequence[int]) -> float:
    return sqrt(size[0] * size[1]) / 256


def restricted(error: Tensor, mask: Tensor, region: Region) -> Tensor:
    """The error map (N, H, W) with zeros where a mask (N, H, W) leaves no room for the image score."""
    if region == "all":
        return error
    if region == "mask+ring":
        reach = max(round(RING * scale_of([int(side) for side in error.shape[-2:]])), 1)
        mask = F.max_pool2d(mask.to(error)[:, None], 2 * reach + 1, 1, reach)[:, 0]
    return error * mask


def image_score(error: Tensor, summary: Summary) -> Tensor:
    pixels = error.flatten(1)
    if summary == "max":
        return pixels.amax(1)
    return pixels.topk(ceil(TOP * int(pixels.shape[1]))).values.mean(1)


def disjoint_masks(
    size: tuple[int, int], cell: int, count: int = 3, *, seed: int | Sequence[int]
) -> NDArray[np.bool_]:
    """(count, H, W): squares of `cell` pixels dealt out at random, the whole picture in equal shares."""
    rows, columns = (-(-side // cell) for side in size)
    dealt = np.random.default_rng(seed).permutation(rows * columns).reshape(rows, columns) % count
    pixels = dealt.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]]
    return pixels == np.arange(count)[:, None, None]


def random_squares(size: tuple[int, int], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Squares on a grid that together have about this share of the picture."""
    side = max(round(SQUARE * scale_of(size)), 1)
    rows, columns = (-(-each // side) for each in size)
    chosen = rng.permutation(rows * columns).reshape(rows, columns) < round(share * rows * columns)
    return chosen.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]


def inpainted(unet: nn.Module, pictures: Tensor, hidden: Tensor) -> Tensor:
    """Each pixel from the pass that did not see it: `hidden`, ([N,] passes, 1, H, W), is 1 in one of them."""
    passes = unet((pictures[:, None] * (1 - hidden)).flatten(0, 1))
    return (passes.unflatten(0, (-1, int(hidden.shape[-4]))) * hidden).sum(1)


class Riad(nn.Module):
    """Pictures → one reconstruction a cell size, the mean of the U-Nets', with masks that are part of the
    module."""

    def __init__(
        self,
        unets: Iterable[nn.Module],
        size: tuple[int, int],
        cells: Sequence[int] = CELLS,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.unets = nn.ModuleList(unets)
        self.hidden: Tensor
        masks = np.stack([disjoint_masks(size, cell, seed=[seed, cell]) for cell in cells])
        self.register_buffer("hidden", torch.from_numpy(masks)[:, :, None], persistent=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        return [
            torch.stack([inpainted(unet, pictures, each.float()) for unet in self.unets]).mean(0)
            for each in self.hidden
        ]


class Msgms(nn.Module):
    """Pictures, and what was rebuilt of them → error maps (N, H, W), whatever was hidden."""

    def forward(self, pictures: Tensor, rebuilt: Tensor, hidden: Tensor) -> Tensor:
        return msgms_map(pictures, rebuilt)
