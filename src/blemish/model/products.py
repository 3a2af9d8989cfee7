"""One model for several products: which of them a picture shows, and the thresholds that are its own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from blemish.errors import UsageError
from blemish.model.calibration import HELD_OUT, STAND_IN, Calibration, upper_bound

UNKNOWN = "It looks like none of the products that the model knows."
SURER = 1.001
"""By how many times more than by chance, or than like another, a picture is to look like a product."""
LEAST_OWN = 5
"""Good images from which on a product has thresholds of its own."""
SURE = 0.9
"""Surer that it shows a product nobody need be of a picture, though all calibration images were surer."""


class Good(NamedTuple):
    """What the model says of a good image that it was not fitted on."""

    score: float
    peak: float
    """The highest value of its anomaly map."""
    klass: str = ""
    confidence: float | None = None
    """That it shows its own class."""
    how: str = HELD_OUT
    """Or `leave-one-out` or `stand-in`."""


class Seen(NamedTuple):
    klass: str | None
    """None: the model does not tell products apart, or this one is none that it knows."""
    confidence: float | None
    doubt: str | None = None
    """Why it may be another product, or none that the model knows."""


@dataclass(frozen=True, slots=True)
class Calibrations:
    pooled: Calibration
    own: Mapping[str, Calibration] = field(default_factory=dict)
    least_confidence: float | None = None
    """Below it a picture shows no product that the model knows."""

    @classmethod
    def of(cls, good: Sequence[Good], *, false_reject: float = 0.01) -> Self:
        """Those left out one at a time tell of their own class alone, where others were held out. Those of a
        class so small that a model without one of them hardly knows it tell nothing, where there are others;
        and what stands in tells of that class alone."""

        def calibration(some: Sequence[Good]) -> Calibration:
            return Calibration.of(
                [each.score for each in some],
                [each.peak for each in some],
                false_reject=false_reject,
                how=some[0].how,
            )

        classes = sorted({each.klass for each in good})
        parts = {klass: [each for each in good if each.klass == klass] for klass in classes}
        enough = {klass: part for klass, part in parts.items() if len(part) >= LEAST_OWN}
        own = {klass: calibration(part) for klass, part in enough.items()}
        held = [each for each in good if each.how == HELD_OUT]
        left = [each for each in good if each.klass in enough and each.how != STAND_IN]
        together = held or left or good
        pooled = calibration(together)
        unsure = np.sort([-each.confidence for each in together if each.confidence is not None])
        least = min(-upper_bound(unsure, false_reject)[0], SURE) if len(unsure) > 1 else None
        return cls(pooled, own if own.keys() != {""} else {}, least)

    def for_class(self, klass: str | None) -> Calibration:
        """That of all products together, for one with too few images."""
        return self.pooled if klass is None else self.own.get(klass, self.pooled)

    def to_json(self) -> dict[str, Any]:
        told = self.pooled.to_json()
        if self.own:
            told["classes"] = {klass: each.to_json() for klass, each in self.own.items()}
        if self.least_confidence is not None:
            told["least_confidence"] = self.least_confidence
        return told

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """KeyError, TypeError or ValueError when these are not the fields of calibrations."""
        told = dict(fields)
        own, least = told.pop("classes", {}), told.pop("least_confidence", None)
        if least is not None and not np.isfinite(least):
            raise ValueError("the least confidence is not finite")
        read = {klass: Calibration.from_json(each) for klass, each in own.items()}
        return cls(Calibration.from_json(told), read, least)


def one_of(classes: Sequence[str], klass: str | None) -> NDArray[np.float32] | None:
    """(1, classes), as graphs take it; None for None: the graph finds out."""
    if klass is None:
        return None
    if klass not in classes:
        raise UsageError(f"The model knows no class {klass}: {known(classes)}.")
    return np.eye(len(classes), dtype=np.float32)[[classes.index(klass)]]


def known(classes: Iterable[str]) -> str:
    named = [klass for klass in classes if klass]
    return f"name one of {', '.join(named)}" if named else "it was fitted on one product without a name"


def recognised(
    shares: NDArray[np.floating[Any]] | None,
    classes: Sequence[str],
    given: str | None,
    least: float | None,
) -> Seen:
    """`shares` are the graph's: how far a picture looks like each class."""
    if shares is None:
        alone = classes[0] if len(classes) == 1 else ""
        return Seen(given or alone or None, None)
    best = int(shares.argmax())
    if given is not None:
        confidence = float(shares[classes.index(given)])
        if shares[best] <= SURER * confidence or least is None or confidence >= least:
            return Seen(given, confidence)
        other = f"It looks more like {classes[best]} than {given}."
        return Seen(given, confidence, other if shares[best] >= least else UNKNOWN)
    confidence = float(shares[best])
    told_apart = confidence > SURER / len(classes)  # the least that few images tell may lie below that
    known_one = told_apart and (least is None or confidence >= least)
    return Seen(classes[best], confidence) if known_one else Seen(None, confidence, UNKNOWN)
