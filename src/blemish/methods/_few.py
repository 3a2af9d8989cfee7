"""How good pictures of a product score of which a model knows only a few: seen on products that have more.

Ours. Products of one to four images leave none to set a threshold with, and by that of products of many their
good parts are all strange. So products of many are cut to as few images, and what their other good pictures
then score stands in, as a share of what the few score when each is left out in turn: by that products differ.
"""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from torch import nn

from blemish.data import Sample, Samples
from blemish.methods._contract import Without

DRAWS = 12
"""Cuts in all, at least one of each product, of at most as many products."""
PICTURES = 9
"""That are judged after each."""

Scores = NDArray[np.float64]
"""(score, peak of the map) of a picture."""


class StandIns:
    def __init__(
        self,
        train: Samples,
        held: Samples,
        large: Sequence[str],
        *,
        without: Without,
        judge: Callable[[nn.Module, Sample], tuple[float, float]],
        seed: int,
    ) -> None:
        self.train, self.held, self.large = train, held, large
        self.without, self.judge, self.seed = without, judge, seed
        self.found: dict[int, list[Scores]] = {}

    def of(self, few: Samples) -> list[Scores]:
        """What good pictures of that product may score."""
        count, usual = len(few), self.usual(few)
        if count not in self.found:
            more = [name for name in self.large if len(self.train.klass(name)) > count]
            some = more[:: max(ceil(len(more) / DRAWS), 1)]
            cuts = (self.cut(name, count, ceil(DRAWS / len(some))) for name in some)
            self.found[count] = [each for found in cuts for each in found]
        return [each * usual for each in self.found[count]]

    def cut(self, name: str, count: int, times: int) -> list[Scores]:
        images, found = self.train.klass(name), []
        for time in range(times):
            rng = np.random.default_rng([self.seed, self.train.classes.index(name), count, time])
            drawn = images.with_items(images[int(place)] for place in rng.permutation(len(images)))
            few, rest = drawn[:count], drawn[count:]
            others = self.held.klass(name) or rest
            shown = [others[int(place)] for place in rng.permutation(len(others))[:PICTURES]]
            scorer, usual = self.without(self.train, rest), self.usual(few, rest)
            found += [np.array(self.judge(scorer, sample)) / usual for sample in shown]
        return found

    def usual(self, few: Samples, rest: Sequence[Sample] = ()) -> Scores:
        """What the few score when each is left out; the only one of a product tells nothing."""
        if len(few) == 1:
            return np.ones(2)
        left = [self.judge(self.without(self.train, [*rest, sample]), sample) for sample in few]
        mean = np.mean(left, 0)
        return np.where(mean > 0, mean, 1.0)
