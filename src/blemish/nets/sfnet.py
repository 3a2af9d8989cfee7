"""SFNet, the segmentation head of FractalAD: coarse maps are shifted to where finer ones want them.

With it what learns beside it, and what becomes of its answer.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nets.distillation import Codebook, Student, View, compared, distance

LEAST = 1e-6
"""Probabilities nearer to 0 or 1 count as this near."""


def conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class Warp(nn.Module):
    """Samples a coarse map where the flow points, found from it and from the next finer map.

    Unlike in the published SFNet the flow is reduced to the coarse size and the shift happens there. The
    sampling grid counts from corner to corner; unless `align_corners`, the sampler does not, so that even no
    flow at all moves the map by a fraction of a cell. That is how FractalAD's code does it, and the flow
    learns around it.
    """

    def __init__(self, width: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.flow = nn.Conv2d(2 * width, 2, 3, padding=1)
        self.align_corners = align_corners

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        rows, columns = (int(side) for side in coarse.shape[-2:])
        flow = self.flow(torch.cat([fine, resized(coarse, fine.shape[-2:])], dim=1))
        flow = resized(flow, (rows, columns)).permute(0, 2, 3, 1)
        across, down = torch.arange(columns), torch.arange(rows)
        places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).to(flow)
        last = flow.new_tensor([max(columns - 1, 1), max(rows - 1, 1)])
        return F.grid_sample(coarse, 2 * (places + flow) / last - 1, align_corners=self.align_corners)


class SFNet(nn.Module):
    """Maps of a backbone's stages, from fine to coarse → logits (N, 1, H, W)."""

    def __init__(self, channels: Sequence[int], width: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv(count, width, 1) for count in channels)
        self.warps = nn.ModuleList(Warp(width, align_corners=align_corners) for _ in channels[1:])
        self.merges = nn.ModuleList(conv(width, width, 3) for _ in channels[1:])
        self.last = nn.Sequential(conv(len(channels) * width, width, 3), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        *finer, coarse = (lateral(x) for lateral, x in zip(self.lateral, maps, strict=True))
        merged = [coarse]
        for fine, warp, merge in zip(finer[::-1], self.warps, self.merges, strict=True):
            merged.append(merge(resized(warp(fine, merged[-1]), fine.shape[-2:]) + fine))
        finest = merged[-1].shape[-2:]
        together = [x if x.shape[-2:] == finest else resized(x, finest) for x in merged[::-1]]
        return resized(self.last(torch.cat(together, dim=1)), size)


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy, and Dice over the whole batch with one added above and below."""
    share = logits.sigmoid()
    dice = 1 - (2 * (share * masks).sum() + 1) / (share.sum() + masks.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + dice


class Pair(nn.Module):
    """What learns: the head, and the student where there is one. With them what tells strange places."""

    def __init__(
        self,
        student: Student | Codebook | None,
        head: SFNet,
        strange: nn.Module | None = None,
        *,
        view: View,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.student = student
        self.head = head
        self.strange: Any = strange
        self.view = view
        self.size = size

    def shown(self, pictures: Tensor, maps: list[Tensor]) -> list[Tensor]:
        """From the teacher's maps; beside a student that does not learn they are what is shown already."""
        if not isinstance(self.student, Student):
            return maps
        return compared(self.view, maps, self.student(pictures, maps))

    def logits(self, pictures: Tensor, maps: list[Tensor]) -> Tensor:
        return self.head(self.shown(pictures, maps), self.size)

    def forward(
        self, clean: Tensor, pasted: Tensor, of_clean: list[Tensor], of_pasted: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """How far the student is off on clean pictures, and the logits of those with anomalies.

        The student sees both, in this order, and its batch norms count both; only the first teaches it.
        """
        off = torch.zeros((), device=of_pasted[0].device)
        if isinstance(self.student, Student):
            off = distance(of_clean, self.student(clean, of_clean))
        with torch.no_grad():
            shown = self.shown(pasted, of_pasted)
        return off, self.head(shown, self.size)


def image_score(kind: str, logits: Tensor) -> Tensor:
    """The mean is that of probabilities, as in the paper; as log-odds, like the others."""
    if kind == "mean":
        return logits.sigmoid().flatten(1).mean(1).logit(LEAST)
    flat = logits.flatten(1)
    if kind == "max":
        return flat.amax(1)
    count = max(math.ceil((0.01 if kind == "top1" else 0.005) * flat.shape[1]), 1)
    top = flat.topk(count, 1).values
    return top.mean(1) if kind == "top1" else top[:, -1]
