"""Pictures → what is rebuilt of them from what is not hidden: EAR's one pass, and RIAD's."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from blemish.memory.patches import PatchVectors
from blemish.memory.surprise import Surprise
from blemish.nets.masking import Constant, Fill, Hiding, excise
from blemish.nets.reconstruction import (
    Msgms,
    Region,
    Riad,
    Smooth,
    Summary,
    image_score,
    inpainted,
    restricted,
)
from blemish.nets.unet import UNet


class Filling(nn.Module):
    """U-Nets, given pictures without what is hidden of them."""

    def __init__(self, unets: Iterable[UNet], fill: Fill, *, told: bool = False) -> None:
        """`told`: whether they are given what is hidden, too."""
        super().__init__()
        self.members, self.fill, self.told = nn.ModuleList(unets), fill, told

    @property
    def unets(self) -> list[UNet]:
        return [cast(UNet, unet) for unet in self.members]

    def left(self, pictures: Tensor, hidden: Tensor, cells: int) -> Tensor:
        """What a U-Net is given."""
        if hidden.ndim > 3:
            return (pictures[:, None] * (1 - hidden)).flatten(0, 1)
        left = excise(pictures, hidden, self.fill, cells)
        return torch.cat([left, hidden[:, None]], 1) if self.told else left

    def forward(self, pictures: Tensor, hidden: Tensor, cells: int, member: int) -> Tensor:
        """What one of them rebuilds."""
        unet = self.members[member]
        if hidden.ndim > 3:
            return inpainted(unet, pictures, hidden)
        return unet(self.left(pictures, hidden, cells))

    def together(self, pictures: Tensor, hidden: Tensor, cells: int) -> Tensor:
        """The mean of what they rebuild."""
        left = self.left(pictures, hidden, cells)
        return torch.stack([unet(left) for unet in self.members]).mean(0)


class Passes(nn.Module):
    """Pictures → what the U-Nets rebuild of them, once or, as RIAD does, once for each size of what is
    hidden; what was hidden; and of which pictures more was conspicuous than may be."""

    def __init__(self, hiding: Hiding | Constant | None, filling: Filling | Riad, cells: int) -> None:
        super().__init__()
        self.hiding, self.filling, self.cells = hiding, filling, cells

    def forward(self, pictures: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        if isinstance(self.filling, Riad):
            everywhere = torch.ones_like(pictures[:, 0])
            return self.filling(pictures), everywhere, everywhere[:, 0, 0] > 1  # never
        assert self.hiding is not None
        hidden, capped = self.hiding.told(pictures)
        return [self.filling.together(pictures, hidden, self.cells)], hidden, capped


class Pairs(nn.Module):
    """Pictures → what is seen of them and of what is rebuilt of them."""

    def __init__(self, passes: Passes, surprise: Surprise) -> None:
        super().__init__()
        self.passes, self.surprise = passes, surprise

    def forward(self, pictures: Tensor) -> Tensor:
        rebuilt, hidden, _ = self.passes(pictures)
        return torch.cat([self.surprise.seen(pictures, each, hidden) for each in rebuilt], dim=1)


class EarScorer(nn.Module):
    """Pictures → image scores, maps, and of which pictures more was conspicuous than may be hidden."""

    def __init__(
        self, passes: Passes, compare: Msgms | Surprise, smooth: Smooth, score: Summary, region: Region
    ) -> None:
        super().__init__()
        self.passes, self.compare, self.smooth = passes, compare, smooth
        self.score, self.region = score, region
        # Rounding decides what is conspicuous enough.
        self.jumps = ("score", "map") if isinstance(passes.hiding, Hiding) else ()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rebuilt, hidden, capped = self.passes(pictures)
        errors = [self.compare(pictures, each, hidden) for each in rebuilt]
        error = self.smooth(torch.stack(errors).mean(0))
        return image_score(restricted(error, hidden, self.region), self.score), error, capped.float()


class Likeness(nn.Module):
    """How far what a backbone sees of rebuilt pictures is from what it sees of the pictures: the mean square,
    in deviations of good ones. What is to be compared in the end is thus what is learned."""

    def __init__(self, patches: PatchVectors, good: Iterable[Tensor]) -> None:
        super().__init__()
        self.patches = PatchVectors(patches.backbone.quick(), patches.taps)
        with torch.no_grad():
            seen = torch.cat([patches(pictures).flatten(0, 1) for pictures in good])
        self.deviations: Tensor
        self.register_buffer("deviations", seen.std(0).clamp(min=1e-2 * float(seen.std()) + 1e-6))

    def forward(self, pictures: Tensor, rebuilt: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.patches(pictures).float()
        return ((self.patches(rebuilt).float() - target) / self.deviations).square().mean()


class Each(nn.Module):
    """Pictures → (N, modules, …): what each of the modules makes of them. What they have in common, such as
    what is hidden and what is seen of the pictures, the runtime finds and computes once."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.stack([module(pictures) for module in self.each], 1)


class First(nn.Module):
    """Of what a scorer gives, the image score."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, pictures: Tensor) -> Tensor:
        return self.scorer(pictures)[0]
