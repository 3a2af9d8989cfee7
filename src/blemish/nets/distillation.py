"""A frozen teacher, students that know what it makes of good pictures, and where the two disagree."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.backbone import Backbone, colour_groups

View = Literal["ws", "wt", "t", "s", "difference", "both"]


class Moments(NamedTuple):
    """Of the vectors in a stage's maps of good pictures."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, pictures: Iterable[Sequence[Tensor]]) -> "list[Moments]":
        """For each stage, from the maps (channels, H, W) of pictures."""
        sums: list[Tensor] = []
        for maps in pictures:
            flat = [F.pad(x.flatten(1), (0, 0, 0, 1), value=1.0).double() for x in maps]
            products = [x @ x.T for x in flat]
            sums = [a + b for a, b in zip(sums, products, strict=True)] if sums else products
        means = [total[-1, :-1] / total[-1, -1] for total in sums]
        return [
            cls(mean, total[:-1, :-1] / total[-1, -1] - mean.outer(mean))
            for mean, total in zip(means, sums, strict=True)
        ]


class Stages(nn.Module):
    """Pictures in 0..1 → the last map of each stride, from fine to coarse."""

    def __init__(self, backbone: Backbone, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = taps

    def forward(self, pictures: Tensor) -> list[Tensor]:
        groups = [self.backbone(group, self.taps) for group in colour_groups(pictures)]
        return [torch.cat(each, dim=1) for each in zip(*groups, strict=True)]

    @torch.no_grad()
    def shapes(self, channels: int, size: tuple[int, int]) -> list[torch.Size]:
        """Of the maps of one picture."""
        return [x.shape[1:] for x in self(torch.zeros(1, channels, *size))]


def stage_taps(backbone: Backbone) -> tuple[str, ...]:
    last = {tap.stride: tap.name for tap in backbone.taps}
    return tuple(last.values()) if len(last) > 1 else tuple(tap.name for tap in backbone.taps)


class Flat(nn.Module):
    """The maps of all stages as one row a picture, which `unflattened` undoes."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.cat([x.flatten(1) for x in self.stages(pictures)], dim=1)


def unflattened(rows: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    pieces = torch.split(rows, [shape.numel() for shape in shapes], dim=1)
    return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True)]


class Student(nn.Module):
    """A network of the teacher's architecture, which sees the picture."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, pictures: Tensor, teacher: Sequence[Tensor]) -> list[Tensor]:
        del teacher
        return self.stages(pictures)


class Subspace(nn.Module):
    """The teacher's own maps, without the directions in which good ones hardly vary.

    A student that is found in closed form, and costs next to nothing to ask.
    """

    def __init__(self, widths: Sequence[int], kept: Sequence[int]) -> None:
        super().__init__()
        self.means = nn.ParameterList(nn.Parameter(torch.zeros(width), False) for width in widths)
        self.bases = nn.ParameterList(
            nn.Parameter(torch.zeros(count, width), False) for width, count in zip(widths, kept, strict=True)
        )

    @classmethod
    def of(cls, usual: Sequence[Moments], variance: float) -> "Subspace":
        """So much of the variance of good pictures' maps is kept."""
        bases = []
        for _, covariance in usual:
            values, vectors = torch.linalg.eigh(covariance)
            shares = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum().clamp(min=1e-12)
            kept = min(int((shares < variance).sum()) + 1, len(values) - 1)
            bases.append(vectors.flip(1)[:, :kept].T)
        self = cls([basis.shape[1] for basis in bases], [len(basis) for basis in bases])
        means = [mean for mean, _ in usual]
        for own, found in zip([*self.means, *self.bases], [*means, *bases], strict=True):
            own.data.copy_(found)
        return self

    def forward(self, pictures: Tensor, teacher: Sequence[Tensor]) -> list[Tensor]:
        del pictures
        known = []
        for x, mean, basis in zip(teacher, self.means, self.bases, strict=True):
            middle = mean[:, None, None]
            parts = F.conv2d(x - middle, basis[..., None, None])
            known.append(middle + F.conv2d(parts, basis.T[..., None, None]))
        return known


def agreement(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, H, W): the cosine of the two maps' vectors at each place."""
    return F.cosine_similarity(teacher, student, dim=1)


def distance(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """What a network learns to lower: one minus the cosine, averaged over places, summed over stages."""
    return torch.stack([(1 - agreement(t, s)).mean() for t, s in zip(teacher, student, strict=True)]).sum()


def seen(view: View, teacher: Tensor, student: Tensor) -> Tensor:
    """What the head is shown of a stage. FractalAD: `ws`, the student's map weighted by disagreement."""
    if view == "t":
        return teacher
    if view == "s":
        return student
    if view == "difference":
        return (teacher - student).abs()
    weighted = (1 - agreement(teacher, student))[:, None] / 2
    if view == "both":
        return torch.cat([teacher, weighted * student], dim=1)
    return weighted * (teacher if view == "wt" else student)
