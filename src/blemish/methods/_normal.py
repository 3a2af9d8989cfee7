"""What LTAD's closed form knows of normal patches: how they vary and change, and in which groups they are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blemish.data import Sample, Samples
from blemish.memory.codebook import settled
from blemish.memory.coreset import k_centre, squared_distances
from blemish.memory.vectors import Vectors
from blemish.methods._conditions import features_again
from blemish.methods._contract import Run
from blemish.methods._features import Features
from blemish.nets.distillation import Moments
from blemish.nets.groups import Groups, Lite
from blemish.nets.space import Gaze

AGAIN = 32
"""Pictures of a class that are taken again."""
CODED = 40_000
"""Patches of a class, of as many pictures as there are, that are put in groups."""
MEMBERS = 2
"""Patches of a group on the average, at least. Were each a group of its own, what was learned would be next
to nothing off, and a scale that is read from it of no use."""
ROUNDS = 5
"""Of k-means, which more would hardly change."""


class NormalPatches:
    """Those of good pictures that a gaze has found, class by class."""

    def __init__(
        self,
        gaze: Gaze,
        found: Features,
        train: Samples,
        run: Run,
        *,
        stages: Sequence[int],
        groups: int,
        swayed: float,
    ) -> None:
        self.gaze, self.found = gaze, found
        self.stages, self.groups, self.swayed = stages, groups, swayed
        some = [sample for name in train.classes for sample in train.klass(name)[:AGAIN]] if swayed else []
        self.taken_again = {sample.name for sample in some}
        self.found_again = features_again(gaze, train.with_items(some), run) if some else None

    def closed_form(self, train: Samples) -> Lite:
        parts = [train.klass(name) for name in train.classes]
        self.usual, self.counts = [self.moments(part) for part in parts], [len(part) for part in parts]
        lite = Lite.of(self.usual, self.counts, self.stages)
        if self.groups:
            lite.remember([self.grouped(lite, number, part) for number, part in enumerate(parts)])
        return lite

    def put_again(self, lite: Lite, klass: int, part: Samples) -> None:
        """A class, as if these were its pictures."""
        usual, counts = [*self.usual], [*self.counts]
        usual[klass], counts[klass] = self.moments(part), len(part)
        other = Lite.of(usual, counts, self.stages, only=klass)
        lite.take(klass, other, self.grouped(other, klass, part) if self.groups else None)

    def moments(self, part: Samples) -> Moments:
        """How a patch changes when its picture is taken again counts among how patches differ."""
        usual = Moments.of([self.of(sample)] for sample in part)[0]
        again = [sample for sample in part if sample.name in self.taken_again]
        if not again:
            return usual
        off = ([self.of(sample, self.found_again) - self.of(sample)] for sample in again)
        mean, covariance = Moments.of(off)[0]
        changed = covariance + mean.outer(mean)
        return usual._replace(covariance=usual.covariance + self.swayed * changed)

    def grouped(self, lite: Lite, klass: int, part: Samples) -> list[Groups]:
        """Around patches that lie far apart, so that rare ones have groups; and around means."""
        each, rng = -(-CODED // len(part)), np.random.default_rng([klass])
        some = []
        for sample in part:
            patches = self.of(sample).flatten(1).T
            some.append(patches[torch.from_numpy(rng.permutation(len(patches))[:each])])
        turned = lite.turned(klass, torch.cat(some))
        most = min(self.groups, max(len(turned) // MEMBERS, 1))
        far = turned[k_centre(Vectors.of([turned], turned.nbytes), most)]
        common = turned[torch.from_numpy(rng.permutation(len(turned))[:most])]
        ways = (far, squared_distances(turned, far).argmin(1)), settled(turned, common, ROUNDS)
        return [Groups.of(turned, *way) for way in ways]

    def of(self, sample: Sample, found: Features | None = None) -> Tensor:
        """(channels, h, w)"""
        patches = self.gaze.seen((found or self.found).batch([sample])).compared
        assert patches is not None
        return patches[0]
