"""A frozen teacher, students that know what it makes of good pictures, and where the two disagree."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.backbone import Backbone, colour_groups

View = Literal["w", "ws", "wt", "t", "s", "difference", "both"]


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


class Codebook(nn.Module):
    """A student that answers with what good pictures have: found in seconds, and it cannot learn too much."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        """For each stage what turns vectors (N, places, channels) of the teacher into its answers."""
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, pictures: Tensor, teacher: Sequence[Tensor]) -> list[Tensor]:
        del pictures
        known = []
        for answer, x in zip(self.stages, teacher, strict=True):
            vectors = answer(x.flatten(2).transpose(1, 2))
            known.append(vectors.transpose(1, 2).reshape(x.shape))
        return known


def placed(maps: Sequence[Tensor]) -> float:
    """Share of the variance of maps (channels, H, W) that their mean explains, beyond chance."""
    x = torch.stack(list(maps))
    mean = x.mean((0, 2, 3), keepdim=True)
    share = (x.mean(0, keepdim=True) - mean).square().mean() / (x - mean).square().mean().clamp(min=1e-12)
    return float((share - 1 / len(x)) / (1 - 1 / len(x)))


def agreement(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, H, W): the cosine of the two maps' vectors at each place."""
    return F.cosine_similarity(teacher, student, dim=1)


def distance(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """What a network learns to lower: one minus the cosine, averaged over places, summed over stages."""
    return torch.stack([(1 - agreement(t, s)).mean() for t, s in zip(teacher, student, strict=True)]).sum()


class Seeing(Stages):
    """Pictures in 0..1 → what a head is shown of each stage."""

    def __init__(self, teacher: Stages, student: nn.Module | None, view: View) -> None:
        super().__init__(teacher.backbone, teacher.taps)
        self.student = student
        self.view = view

    def shown(self, pictures: Tensor, teacher: list[Tensor]) -> list[Tensor]:
        if self.student is None:
            return teacher
        return compared(self.view, teacher, self.student(pictures, teacher))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        return self.shown(pictures, super().forward(pictures))


def compared(view: View, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    return [seen(view, *pair) for pair in zip(teacher, student, strict=True)]


def widths(view: View, channels: Sequence[int]) -> list[int]:
    """Of what is seen of stages with so many channels."""
    return [{"w": 1, "both": 2 * count}.get(view, count) for count in channels]


def seen(view: View, teacher: Tensor, student: Tensor) -> Tensor:
    """What the head is shown of a stage. FractalAD: `ws`, the student's map weighted by disagreement."""
    if view == "t":
        return teacher
    if view == "s":
        return student
    if view == "difference":
        return (teacher - student).abs()
    weighted = (1 - agreement(teacher, student))[:, None] / 2
    if view == "w":
        return weighted
    if view == "both":
        return torch.cat([teacher, weighted * student], dim=1)
    return weighted * (teacher if view == "wt" else student)
