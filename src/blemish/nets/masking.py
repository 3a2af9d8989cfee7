"""From an attention map to one deterministic mask, and what is put in its place.

EAR, arXiv 2310.04010. The published rule (the author's later one): all above μ + 0.674σ of the picture's own
map. Ours: the other rules, specks dropped, the rim covered, and never more than half of a picture.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.saliency import framed, shrunk, size_of

Fill = Literal["zero", "mean", "mosaic"]
SPECK = 9
"""Components of fewer pixels are dropped."""
EVEN = 1e-3
"""A map that rises above its mean by less than this is even: what is left is rounding."""
MOST = 0.5
"""Of a picture that may be masked."""


def deviations(count: float, maps: Tensor) -> Tensor:
    return maps.mean(1, keepdim=True) + count * maps.std(1, correction=0, keepdim=True)


def top(share: float, maps: Tensor) -> Tensor:
    """The highest value that is too many."""
    allowed = int(share * int(maps.shape[1]))
    return maps.topk(allowed + 1, dim=1).values[:, -1:]


def otsu(maps: Tensor) -> Tensor:
    """Otsu's threshold without a histogram: every split of the sorted values is tried."""
    values = maps.sort(dim=1).values
    count = int(values.shape[1])
    if count < 2:
        return maps
    below = torch.ones_like(values).cumsum(1)[:, :-1] / count
    sums, mean = values.cumsum(1)[:, :-1] / count, values.mean(1, keepdim=True)
    between = (mean * below - sums).square() / (below * (1 - below))
    return values.gather(1, between.argmax(1, keepdim=True))


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "tukey": partial(deviations, 0.674),
    "sigma1": partial(deviations, 1),
    "sigma2": partial(deviations, 2),
    "sigma3": partial(deviations, 3),
    "top1": partial(top, 0.01),
    "top5": partial(top, 0.05),
    "top10": partial(top, 0.10),
    "top25": partial(top, 0.25),
    "otsu": otsu,
}
"""Maps (N, H·W) → thresholds (N, 1), above which a pixel is masked; nothing is on an even map."""


class Masking(nn.Module):
    """Maps (N, H, W) → masks (N, H, W), 1 where the picture is to be taken out.

    `dilation`: pixels by which what was found grows, by default one cell of the stroke attention whatever the
    size of the picture: the map is as coarse as that, and a defect's rim left visible would be copied.
    """

    def __init__(self, rule: str = "tukey", dilation: int = 4) -> None:
        super().__init__()
        if rule not in RULES:
            raise UsageError(f"There is no masking rule {rule!r}: choose among {', '.join(RULES)}.")
        if dilation < 0:
            raise UsageError(f"A mask can't grow by {dilation} pixels: give 0 or more.")
        self.rule, self.dilation = rule, dilation

    def forward(self, maps: Tensor) -> Tensor:
        return self.capped(maps, self.found(maps))

    def found(self, maps: Tensor) -> Tensor:
        """(N, H·W): all that is conspicuous."""
        # Doubles, for a threshold must not depend on the order in which a runtime adds.
        flat = maps.flatten(1).double()
        uneven = flat.amax(1, keepdim=True) > (1 + EVEN) * flat.mean(1, keepdim=True)
        found = without_specks((uneven & (flat > RULES[self.rule](flat))).view_as(maps))
        side = 2 * self.dilation + 1
        return highest(highest(found.float(), side, 1), 1, side).flatten(1) > 0

    def capped(self, maps: Tensor, found: Tensor) -> Tensor:
        """The most conspicuous half of the picture, where more was found."""
        inside = torch.where(found, maps.flatten(1).double(), -1.0)
        return (inside > top(MOST, inside)).view_as(maps).to(maps.dtype)


class Hiding(nn.Module):
    """Pictures (N, C, H, W) → masks (N, H, W), 1 where they are hidden: a function of the picture alone.

    `reduction`: by how many times pictures are reduced first, and masks enlarged afterwards.
    """

    def __init__(self, saliency: nn.Module, masking: Masking, reduction: int = 1) -> None:
        super().__init__()
        self.saliency = saliency
        self.masking = masking
        self.reduction = reduction

    def forward(self, pictures: Tensor) -> Tensor:
        return self.told(pictures)[0]

    def told(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """And of which pictures (N,) more was conspicuous than may be hidden."""
        full = size_of(pictures)
        maps = self.saliency(reduced(pictures, self.reduction))
        found = self.masking.found(maps)
        masks = self.masking.capped(maps, found)
        if self.reduction > 1:
            masks = F.interpolate(masks[:, None], full, mode="nearest")[:, 0]
        return masks, found.to(maps.dtype).mean(1) > MOST


def reduced(pictures: Tensor, by: int) -> Tensor:
    height, width = size_of(pictures)
    return shrunk(pictures, (-(-height // by), -(-width // by))) if by > 1 else pictures


class Constant(nn.Module):
    """The same mask for every picture."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, pictures: Tensor) -> Tensor:
        # Not expanded to a number, which a traced graph would keep whatever it is given.
        return torch.zeros_like(pictures[:, 0]) + self.mask

    def told(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        masks = self(pictures)
        return masks, masks.flatten(1).amax(1) > 1  # never


def highest(values: Tensor, rows: int, columns: int) -> Tensor:
    """Of each pixel's neighbourhood of so many rows and columns."""
    return F.max_pool2d(values[:, None], (rows, columns), 1, (rows // 2, columns // 2))[:, 0]


def without_specks(masks: Tensor) -> Tensor:
    """Drops 8-connected components of fewer than SPECK pixels, exactly, in a fixed number of steps.

    Each masked pixel has a number of its own, and takes the highest among its neighbours' as often as the
    longest speck has steps. A speck then has one number throughout, and so is counted. Where two numbers
    meet, the component is larger than any speck.
    """
    numbers = (masks.flatten(1).float().cumsum(1).view_as(masks) - 1) * masks
    for _ in range(SPECK - 2):
        numbers = highest(numbers, 3, 3) * masks
    lowest = -highest(torch.where(masks, -numbers, -torch.inf), 3, 3)
    settled = (highest(numbers, 3, 3) == numbers) & (lowest == numbers)
    weights = torch.where(settled, 1, SPECK) * masks
    places = numbers.flatten(1).long()
    areas = torch.zeros_like(places).scatter_add(1, places, weights.flatten(1))
    return masks & (areas.gather(1, places).view_as(numbers) >= SPECK)


def mosaic(pictures: Tensor, side: int) -> Tensor:
    """Means over cells of that side, the last row and column of cells filled up by mirroring."""
    if side < 1:
        raise UsageError(f"A mosaic can't have cells of {side} pixels: give at least 1.")
    height, width = size_of(pictures)
    cells = F.avg_pool2d(framed(pictures, (0, -height % side), (0, -width % side)), side)
    return F.interpolate(cells, scale_factor=side, mode="nearest")[..., :height, :width]


def excise(pictures: Tensor, masks: Tensor, fill: Fill = "zero", side: int = 16) -> Tensor:
    """Pictures (N, C, H, W) with what the masks (N, H, W) cover emptied, or filled with a hint."""
    if fill == "zero":
        hint = torch.zeros_like(pictures)
    elif fill == "mean":
        hint = pictures.mean((2, 3), keepdim=True)
    elif fill == "mosaic":
        hint = mosaic(pictures, side)
    else:
        raise UsageError(f"There is no fill {fill!r}: choose among zero, mean, mosaic.")
    return torch.where(masks[:, None] > 0, hint, pictures)
