"""What LTAD sees of a picture, and the coordinates that it learns in."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.backbone import colour_groups
from blemish.nets.distillation import Moments
from blemish.nets.language import VisionLanguage
from blemish.nets.maps import Stacked, around, resized
from blemish.nets.uniad import FAINTEST, Principal, deviations, mixed

MOST = 512
"""Principal directions of maps that are looked at."""
WIDTH = 128
"""Of the space of names, where no language brings one."""
RIDGE = 1e-2
"""Share of the mean variance that keeps a regression on few pictures from following their noise."""


class Seen(NamedTuple):
    maps: Tensor
    """(N, channels, h, w)"""
    patches: Tensor | None = None
    """(N, own, h, w): a vision–language model's, that are comparable with its texts or can be made so."""
    image: Tensor = torch.empty(0)
    """(N, width), of length 1, in the space of texts; empty where it is not known."""
    compared: Tensor | None = None
    """(N, all channels, more h, more w): patches as they are compared with remembered ones."""

    def some(self, which: slice) -> "Seen":
        return Seen._make(part if part is None else part[which] for part in self)


class Gaze(nn.Module):
    """Pictures → what a frozen tower makes of them, one row each; `seen` tells the parts of a row.

    `grid`: what is learned on, the tower's own by default. `levelled`: the share of a picture's mean patch
    that is taken off those that are compared, on the tower's own grid; None: no patches are.
    """

    def __init__(
        self,
        tower: Stacked | VisionLanguage,
        channels: int,
        size: tuple[int, int],
        grid: tuple[int, int] | None = None,
        levelled: float | None = None,
    ) -> None:
        super().__init__()
        self.tower, self.coarser, self.levelled = tower.eval(), grid, levelled
        if isinstance(tower, VisionLanguage) and channels not in (1, 3):
            raise UsageError(
                f"{tower.name} knows grey and coloured pictures, and these have {channels} channels: fit "
                "without --vlm."
            )
        with torch.no_grad():
            trial = self.look(torch.zeros(1, channels, *size))
        self.shapes = {name: tuple(part.shape[1:]) for name, part in known(trial).items()}

    @property
    def grid(self) -> tuple[int, int]:
        return self.shapes["maps"][1], self.shapes["maps"][2]

    def look(self, pictures: Tensor) -> Seen:
        if isinstance(self.tower, Stacked):
            maps, patches = self.tower.with_patches(pictures)
            seen = Seen(maps)
        else:
            seen = Seen(*self.tower(colour_groups(pictures)[0]))
            patches = around(seen.maps)
        maps = seen.maps if self.coarser is None else resized(seen.maps, self.coarser)
        if self.levelled is None:
            return seen._replace(maps=maps)
        level = self.levelled * patches.mean((2, 3), keepdim=True)
        return seen._replace(maps=maps, compared=patches - level)

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in known(self.look(pictures)).values()], dim=1)

    def seen(self, rows: Tensor) -> Seen:
        parts = torch.split(rows, [prod(shape) for shape in self.shapes.values()], dim=1)
        return Seen(
            **{
                name: part.float().reshape(-1, *shape)
                for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
            }
        )


class Space(nn.Module):
    """What is seen → principal parts of the maps, patches as they are, and an embedding of the picture.

    All of it in coordinates in which every class counts alike. Where no language embeds pictures, the first
    parts of their mean vector do, each in the deviations that it has within classes.
    """

    def __init__(self, channels: int, kept: int, own: int, width: int) -> None:
        super().__init__()
        self.principal = Principal(channels, kept)
        self.width = min(width, kept) if not own else width
        self.deviations = nn.Parameter(torch.ones(kept), False)
        self.own_mean = nn.Parameter(torch.zeros(own), False)
        self.own_scale = nn.Parameter(torch.ones(own), False)

    @classmethod
    def of(
        cls,
        usual: Sequence[Sequence[Moments]],
        *,
        width: int = WIDTH,
        standardised: bool = True,
        whiten: float = 0.0,
    ) -> "Space":
        """From the moments that each class's maps have and, where there are any, its patches."""
        maps, *patches = zip(*usual, strict=True)
        channels, own = len(maps[0].mean), len(patches[0][0].mean) if patches else 0
        self = cls(channels, min(channels, MOST), own, width)
        self.principal = Principal.of(maps, min(channels, MOST), standardised=standardised, whiten=whiten)
        within = torch.stack([self.turned(each).covariance for each in maps]).mean(0)
        self.deviations.data.copy_(deviations(within, FAINTEST))
        for some in patches:
            mean, covariance = mixed(some)
            self.own_mean.data.copy_(mean)
            self.own_scale.data.copy_(deviations(covariance))
        return self

    def forward(self, seen: Seen) -> Seen:
        maps = self.principal(seen.maps)
        image = seen.image if len(seen.image) else self.embedded(maps.mean((2, 3)))
        return seen._replace(maps=maps, image=image)

    def embedded(self, means: Tensor) -> Tensor:
        return F.normalize((means / self.deviations)[:, : self.width], dim=1)

    def turned(self, usual: Moments) -> Moments:
        """Of maps, as those of their parts."""
        kernel = self.principal.kernel.double()
        return Moments(kernel @ (usual.mean - self.principal.mean), kernel @ usual.covariance @ kernel.T)

    def looks(self, usual: Sequence[Sequence[Moments]]) -> Tensor:
        """(classes, width): the embeddings of the mean pictures."""
        return self.embedded(torch.stack([self.turned(each[0]).mean for each in usual]).float())

    def stack(self, seen: Seen) -> Tensor:
        """Maps and patches as one, for what makes both."""
        if seen.patches is None:
            return seen.maps
        return torch.cat([seen.maps, (seen.patches - up(self.own_mean)) / up(self.own_scale)], dim=1)

    def apart(self, stacked: Tensor) -> Seen:
        maps, patches = torch.split(stacked, [len(self.deviations), len(self.own_mean)], dim=1)
        return Seen(maps, patches * up(self.own_scale) + up(self.own_mean) if len(self.own_mean) else None)


def up(vector: Tensor) -> Tensor:
    return vector[:, None, None]


def known(seen: Seen) -> dict[str, Tensor]:
    return {name: part for name, part in seen._asdict().items() if part is not None and part.numel()}


def to_texts(every: Iterable[Iterable[Seen]]) -> Tensor:
    """(width, own): takes mean patches as near to pictures' embeddings as a ridge regression does, of all
    classes alike."""
    squares, products = [], []
    for some in every:
        pairs = [(seen.image, seen.patches.mean((2, 3))) for seen in some if seen.patches is not None]
        images, patches = map(torch.cat, zip(*pairs, strict=True))
        squares.append(patches.T @ patches / len(patches))
        products.append(patches.T @ images / len(patches))
    square, product = torch.stack(squares).mean(0), torch.stack(products).mean(0)
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, product).T
