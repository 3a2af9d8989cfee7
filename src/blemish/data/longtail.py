"""Long-tailed splits: how many training images each class keeps, which, and what is head and what tail."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import numpy as np

from blemish.data.roles import draw
from blemish.data.samples import Role, Samples
from blemish.errors import DataError, UsageError

__all__ = [
    "Groups",
    "Tail",
    "by_size",
    "class_order",
    "groups",
    "groups_by_count",
    "long_tail",
    "tail_counts",
    "train_counts",
]

KIND = re.compile(r"(exp|step)([1-9]\d*)|pareto")
MANY = 20
PARETO_SHAPE, PARETO_ENDS, PARETO_LEAST = 6.0, (0.01, 0.99), 5
"""TailedCore's: the law's shape, the quantiles between which each class is a bin of it, and the floor."""


class Groups(NamedTuple):
    high: tuple[str, ...]
    low: tuple[str, ...]
    """Both empty where no class has fewer images than another."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How unevenly a list spreads its training images over the classes."""

    kind: str
    """exp100, step100, pareto …, or the name of a published list."""
    seed: int | None
    order: tuple[str, ...]
    """From head to tail; empty where only the counts say it."""
    counts: Mapping[str, int]
    """Training images by class."""
    sha256: str = ""
    """Of the list's images."""

    @property
    def factor(self) -> float:
        """The largest class by the smallest: less than asked for where a class has too few images."""
        return max(self.counts.values()) / min(self.counts.values())

    @property
    def groups(self) -> Groups:
        return groups(self.counts, self.order)

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The classes of head (`high`) and tail (`low`), of 20 images or more (`many`) and of fewer (`few`);
        only parts that have any."""
        high, low = self.groups
        many, few = groups_by_count(self.counts)
        named = {"high": high, "low": low, "many": many, "few": few}
        return {name: classes for name, classes in named.items() if classes}


def groups(counts: Mapping[str, int], order: Sequence[str] = ()) -> Groups:
    """High and Low: the first half of the order, rounded up, and the rest.

    Without an order that of the counts is taken, and classes of one size are not parted: the cut moves to
    the nearest place where the size changes.
    """
    half = ceil(len(counts) / 2)
    if order:
        return Groups(tuple(order[:half]), tuple(order[half:]))
    ranked = by_size(counts)
    sizes = [counts[klass] for klass in ranked]
    steps = [at for at in range(1, len(sizes)) if sizes[at] < sizes[at - 1]]
    cut = min(steps, key=lambda at: abs(at - half), default=None)
    return Groups((), ()) if cut is None else Groups(ranked[:cut], ranked[cut:])


def groups_by_count(counts: Mapping[str, int], least: int = MANY) -> Groups:
    """The other common cut: classes with so many training images, and those with fewer."""
    ranked = by_size(counts)
    return Groups(
        tuple(klass for klass in ranked if counts[klass] >= least),
        tuple(klass for klass in ranked if counts[klass] < least),
    )


def by_size(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda klass: (-counts[klass], klass)))


def class_order(
    available: Mapping[str, int], order: str | Sequence[str] = "size", *, seed: int = 0
) -> tuple[str, ...]:
    """From head to tail: `size`, `random` or the classes themselves."""
    if order == "size":
        return by_size(available)
    if order == "random":
        return tuple(np.random.default_rng(seed).permutation(sorted(available)).tolist())
    given = tuple(next(csv.reader([order]), ())) if isinstance(order, str) else tuple(order)
    if sorted(given) != sorted(available):
        raise UsageError(
            f"The order {','.join(given)} is none of the classes {','.join(by_size(available))}: name each "
            "of them once, one with a comma in double quotes, or write size or random."
        )
    return given


def tail_counts(available: Mapping[str, int], kind: str, order: Sequence[str]) -> dict[str, int]:
    """How many training images each class keeps of those it has, in that order."""
    found = KIND.fullmatch(kind)
    if found is None:
        raise UsageError(
            f"There is no long tail {kind!r}: write exp or step and the factor between the largest and the "
            "smallest class, as exp100 or step200, or pareto."
        )
    place, half, first = np.arange(len(order)), ceil(len(order) / 2), available[order[0]]
    shape, least = found[1], 1
    if shape == "exp":
        wanted = first * float(found[2]) ** (-place / (len(order) - 1))
    elif shape == "step":
        wanted = np.where(place < half, np.inf, first / float(found[2]))
    else:
        wanted, least = first * _pareto(len(order)), PARETO_LEAST
    having = np.array([available[klass] for klass in order])
    kept = np.minimum(having, np.maximum(least, np.rint(np.minimum(wanted, having))))
    return dict(zip(order, kept.astype(int).tolist(), strict=True))


def _pareto(classes: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The mass of each bin by that of the first."""
    low, high = ((1 - quantile) ** (-1 / PARETO_SHAPE) for quantile in PARETO_ENDS)
    mass = -np.diff(np.linspace(low, high, classes + 1) ** -PARETO_SHAPE)
    return mass / mass[0]


def long_tail(samples: Samples, kind: str, *, seed: int = 0, order: str | Sequence[str] = "size") -> Samples:
    """Fewer training images of each class by a law; test images stay.

    Images set aside for calibration are left out: a class of the tail would keep more of them than it learns
    from. With one seed a longer tail takes from the images of a shorter one.
    """
    if len(samples.classes) < 2:
        raise UsageError(
            f"{samples.name} has one class, and a long tail needs several: give a folder of them."
        )
    train = samples.role(Role.TRAIN)
    available = {klass: len(train.klass(klass)) for klass in samples.classes}
    if lacking := [klass for klass, count in available.items() if not count]:
        raise DataError(
            f"The class {lacking[0]!r} of {samples.name} has no good images to train on: add some, or leave "
            "it out."
        )
    ranked = class_order(available, order, seed=seed)
    counts = tail_counts(available, kind, ranked)
    kept: set[str] = set()
    for klass, count in counts.items():
        kept |= draw((sample.name for sample in train.klass(klass)), count, f"long tail {seed}")
    chosen = samples.with_items(s for s in samples if s.role is Role.TEST or s.name in kept)
    return replace(chosen, tail=Tail(kind, seed, ranked, counts))


def train_counts(samples: Samples) -> dict[str, int]:
    """From the largest class to the smallest."""
    found = Counter(sample.klass for sample in samples if sample.role is Role.TRAIN)
    return {klass: found[klass] for klass in by_size(found)}
