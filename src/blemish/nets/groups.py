"""LTAD's classifier in closed form: how far a patch lies from the nearest group of normal ones of its class.

Ours. In place of texts it has groups of normal patches, in the deviations that these have as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blemish.nets.distillation import Moments

BORROWED = 2
"""Pictures that the deviations of all classes count for when those of one are estimated."""
PATCHES = 16
"""Of a picture, that tell as much as if they came from as many: they are much alike."""
MOST = 128
"""Parts of a stage that are compared: those that vary most."""
FLOOR = 1e-2
"""Share of the mean variance that is added to each: what good pictures hardly vary in must not be all."""
NEAR = 0.05
"""Deviations: what is less is rounding."""
LENT = 16
"""Patches that those of all groups count for when it is told how far those of one lie from its middle."""


class Groups(NamedTuple):
    """Normal patches of a class, each in the group with the nearest middle."""

    middles: Tensor
    """(groups, kept)"""
    usual: Tensor
    """(groups,): how far from the middle the patches of a group lie, and by how much that differs."""
    spread: Tensor
    """Never less than it differs in all groups: in a tight one nothing is so strange."""

    @classmethod
    def of(cls, patches: Tensor, middles: Tensor, group: Tensor) -> "Groups":
        """`group`: of each patch the number of its middle."""
        far, counts = apart(patches, middles[group]), group.bincount(minlength=len(middles))

        def mean(values: Tensor) -> Tensor:
            sums = values.new_zeros(len(middles)).index_add(0, group, values)
            return (sums + LENT * values.mean()) / (counts + LENT)

        usual = mean(far)
        differs = (far - usual[group]).square()
        return cls(middles, usual, (mean(differs) + differs.mean() + NEAR**2).sqrt())

    def repeated(self, most: int) -> "Groups":
        return Groups._make(
            torch.cat([part, part[:1].expand(most - len(part), *part.shape[1:])]) for part in self
        )


class Lite(nn.Module):
    """In closed form: maps, and shares (N, K) of classes → how far (N, H, W) patches lie from normal ones.

    From the middle of the nearest group of normal patches of the likeliest class, by how far its own lie from
    it, the mean of each way to group them; or from the mean of all. In the deviations of the class's normal
    patches; classes with few pictures borrow these from the others.
    """

    def __init__(self, classes: int, channels: int, kept: int | None = None) -> None:
        super().__init__()
        kept = kept or channels
        self.means = nn.Parameter(torch.zeros(classes, channels), False)
        self.whitening = nn.Parameter(torch.eye(kept, channels).repeat(classes, 1, 1), False)
        self.middles = nn.Parameter(torch.zeros(classes, 1, 1, kept), False)
        self.usual = nn.Parameter(torch.zeros(classes, 1, 1), False)
        self.spread = nn.Parameter(torch.ones(classes, 1, 1), False)

    @classmethod
    def of(
        cls,
        usual: Sequence[Moments],
        counts: Sequence[int],
        stages: Sequence[int] = (),
        *,
        only: int | None = None,
    ) -> "Lite":
        """From the moments of each class's normal patches, of which it remembers the mean.

        `stages`: channels of each stage of the network, all by default one. Each counts as much as any other,
        or a deep one of many channels would hide what the first see. `only`: the one class that is asked for.
        """
        wanted = range(len(usual)) if only is None else [only]
        stages = tuple(stages) or (len(usual[0].mean),)
        kept = [min(width, MOST) for width in stages]
        self = cls(len(usual), sum(stages), sum(kept))
        self.whitening.zero_()
        ends = [*zip(accumulate(kept), accumulate(stages), strict=True)]
        for (rows, columns), most, width in zip(ends, kept, stages, strict=True):
            own = slice(columns - width, columns)
            each = [moments.covariance[own, own] for moments in usual]
            share = sqrt(sum(kept) / (len(stages) * most))
            for number, turn in zip(wanted, whitened(each, counts, most, wanted), strict=True):
                self.whitening[number, rows - most : rows, own].copy_(share * turn)
        self.means.copy_(torch.stack([moments.mean for moments in usual]))
        return self

    def turned(self, klass: int, vectors: Tensor) -> Tensor:
        """Patches (n, channels) of a class, in the deviations that its normal ones have."""
        return (vectors - self.means[klass]) @ self.whitening[klass].T

    def remember(self, groups: Sequence[Sequence[Groups]]) -> None:
        """Of each class as many ways to group its patches, instead of their mean."""
        most = max(len(each.middles) for ways in groups for each in ways)
        classes = zip(*(stacked(ways, most) for ways in groups), strict=True)
        self.middles, self.usual, self.spread = (nn.Parameter(torch.stack(part), False) for part in classes)

    def take(self, klass: int, other: "Lite", groups: Sequence[Groups] | None) -> None:
        """What another knows of a class; `groups`: those that are then remembered of it."""
        self.means[klass], self.whitening[klass] = other.means[klass], other.whitening[klass]
        if groups is not None:
            own = stacked(groups, int(self.middles.shape[2]))
            self.middles[klass], self.usual[klass], self.spread[klass] = own

    def forward(self, maps: Tensor, shares: Tensor) -> Tensor:
        likeliest = shares.argmax(1)
        off = maps.flatten(2) - self.means[likeliest][:, :, None]
        turned = (off.transpose(1, 2) @ self.whitening[likeliest].transpose(1, 2))[:, None]
        middles = self.middles[likeliest]
        # Squared distances but for the length of a patch itself, which has no say in what is nearest.
        lengths = middles.square().sum(3, keepdim=True)
        both = torch.cat([-2 * turned, torch.ones_like(turned[..., :1])], 3)
        nearest = (both @ torch.cat([middles, lengths], 3).transpose(2, 3)).argmin(3)
        place = likeliest[:, None, None], torch.arange(int(middles.shape[1]))[:, None], nearest
        far = (apart(turned, self.middles[place]) - self.usual[place]) / self.spread[place]
        return far.mean(1).reshape(-1, *(int(side) for side in maps.shape[-2:]))


def stacked(ways: Sequence[Groups], most: int) -> Groups:
    """Each way with as many groups: where they are fewer, one repeats."""
    parts = zip(*(each.repeated(most) for each in ways), strict=True)
    return Groups._make(torch.stack(part) for part in parts)


def apart(vectors: Tensor, others: Tensor) -> Tensor:
    """From the difference: the product form loses the digits of patches that lie close to a middle."""
    return ((vectors - others).square().mean(-1) + NEAR**2).sqrt()


def whitened(
    usual: Sequence[Tensor], counts: Sequence[int], kept: int, wanted: Iterable[int]
) -> Iterator[Tensor]:
    """Of each class that is wanted (kept, channels): turns what is off to the parts that vary most, in their
    deviations."""
    shared = torch.stack([*usual]).mean(0)
    # What channels have in common takes many pictures to tell.
    doubt = len(shared) / (len(shared) + PATCHES * sum(counts))
    for number in wanted:
        covariance, own = usual[number], counts[number] / (counts[number] + BORROWED)
        mixed = own * covariance + (1 - own) * shared
        alone = mixed.diagonal()
        floor = (FLOOR * alone.mean()).clamp(min=1e-12)
        variances, parts = torch.linalg.eigh((1 - doubt) * mixed + (doubt * alone + floor).diag())
        yield (parts / variances.sqrt())[:, -kept:].T
