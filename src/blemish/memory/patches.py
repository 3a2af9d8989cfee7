"""From pictures to patch vectors: one for each cell of the finest tap's grid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.backbone import Backbone, colour_groups

REB_WIDTH = 512
"""Length of REB's vectors; twice that for backbones whose coarser tap has 1024 channels or more."""


class MeanNeck(nn.Module):
    """3×3 means of each tap, the zeros beyond the border counted in.

    Border cells are means of fewer values and so noisier; the zeros shrink them by as much as that, and keep
    borders from outshining every defect.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.width = sum(channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        grid = maps[0].shape[-2:]
        return torch.cat([resized(F.avg_pool2d(tap, 3, 1, 1), grid) for tap in maps], dim=1)


class RebNeck(nn.Module):
    """REB's and PatchCore's neck in closed form.

    As published: zero-padded 3×3 neighbourhoods, flattened by channel, adaptive mean to D, both taps stacked,
    adaptive mean of the 2D numbers to D. All of it is linear, so each half of the vector is one fixed grouped
    3×3 convolution, followed by one bilinear resize.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.width = REB_WIDTH * (2 if max(channels) >= 1024 else 1)
        self.filters = nn.ParameterList(
            nn.Parameter(neck_filters(count, self.width), requires_grad=False) for count in channels
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        grid = maps[0].shape[-2:]
        halves = [
            F.conv2d(tap, weight, padding=1, groups=tap.shape[1] // weight.shape[1])
            for tap, weight in zip(maps, self.filters, strict=True)
        ]
        return torch.cat([resized(half, grid) for half in halves], dim=1)


def neck_filters(channels: int, width: int) -> Tensor:
    """Grouped convolution weights to width / 2 outputs; each group holds whole averaging windows."""
    half = width // 2
    groups = min(channels, half)
    inputs, outputs = channels // groups, half // groups
    if channels % groups or half % groups:
        raise UsageError(f"REB's neck cannot turn {channels} channels into {half}: choose other taps.")
    taps = torch.eye(9 * inputs)[:, None]
    means = F.adaptive_avg_pool1d(taps, 2 * outputs).reshape(9 * inputs, outputs, 2).mean(2)
    return means.T.reshape(outputs, inputs, 3, 3).repeat(groups, 1, 1, 1)


def resized(tap: Tensor, grid: Sequence[int]) -> Tensor:
    if tuple(tap.shape[-2:]) == tuple(grid):
        return tap
    return F.interpolate(tap, size=[int(side) for side in grid], mode="bilinear", align_corners=False)


class Rotation(nn.Module):
    """Patch vectors centred, turned to their principal axes, and those axes brought nearer to one scale.

    `power` 0 keeps distances as they are (but for one common factor), 1 makes them Mahalanobis distances.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, *, power: float, dims: int = 0) -> "Rotation":
        variance, axes = torch.linalg.eigh(covariance.double())
        variance, axes = variance.flip(0).clamp(min=0), axes.flip(1)
        kept = min(dims or len(variance), len(variance))
        # A floor keeps axes on which good parts never vary from dwarfing all others.
        floor = variance.mean() * 1e-4 + 1e-12
        scale = (variance + floor) ** (-power / 2)
        scale /= (variance * scale**2).sum().clamp(min=1e-12).sqrt()
        self = cls(len(mean))
        self.mean = mean.float()
        self.matrix = (axes * scale)[:, :kept].float().contiguous()
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) @ self.matrix


class PatchVectors(nn.Module):
    """Pictures (N, C, H, W) in 0..1 → vectors (N, cells, width), cells row by row."""

    def __init__(self, backbone: Backbone, taps: Sequence[str] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        known = sorted(map(backbone.tap, taps or backbone.default_taps), key=lambda tap: tap.stride)
        self.taps = tuple(tap.name for tap in known)
        channels = [tap.channels for tap in known]
        published = backbone.default_taps == self.taps and backbone.name.startswith(
            ("resnet", "wide_", "vgg")
        )
        self.neck = RebNeck(channels) if published else MeanNeck(channels)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells down and across, found by looking: backbones round sizes in different ways."""
        with torch.no_grad():
            first = self.backbone(
                torch.zeros(1, 3, *size, device=next(self.parameters()).device), self.taps[:1]
            )[0]
        return int(first.shape[-2]), int(first.shape[-1])

    def forward(self, pictures: Tensor) -> Tensor:
        maps = [self.neck(self.backbone(group, self.taps)) for group in colour_groups(pictures)]
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
