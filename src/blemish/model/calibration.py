"""From scores of held-out good images to a verdict.

Split-conformal: with n good images that the model was not fitted on, a new good image scores above the k-th
highest of them with probability at most k / (n + 1), whatever the distribution, as long as it is drawn like
them. So n images can guarantee a false-reject rate no smaller than 1 / (n + 1). Asked for less, the threshold
is extrapolated from a normal tail. Scores of images left out one at a time come from other models than the
shipped one: they set a threshold in the same way, but guarantee nothing. The statement says which it is.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from blemish.errors import UsageError
from blemish.model.result import Verdict

SMALLEST_BUDGET = 1e-6
REVIEW_FACTOR = 5
"""The review band begins where five times the false-reject budget of good images would score."""
HELD_OUT, LEFT_OUT, STAND_IN = "held-out", "leave-one-out", "stand-in"
"""How good images are judged; what stands in is of other products, of which the model then knew as few."""
REVIEW_OF_STAND_INS = 0.25
"""Or where such a share of them would score: what others tell of a product that is hardly known is vague, so
that a person had better look."""
_ROUNDING = 1e-9
"""A share such as 0.07 is no exact number, yet 7 in 100 are within it."""
_TINY = float(np.finfo(np.float32).tiny)


def check_budget(false_reject: float) -> None:
    if not SMALLEST_BUDGET <= false_reject <= 0.5:
        raise UsageError(
            f"The false-reject budget is {false_reject}: give a share from {SMALLEST_BUDGET:f} to 0.5, "
            "such as 0.01."
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    scores: tuple[float, ...]
    """Of the good calibration images, ascending."""
    false_reject: float
    threshold: float
    review_threshold: float
    region_threshold: float
    """On the anomaly map: where outlines are drawn. One good image in 1 / false_reject reaches it."""
    heat_low: float
    heat_high: float
    """The fixed colour scale of heat maps: the same for every picture that the model sees."""
    guaranteed: bool
    how: str
    """`held-out`, `leave-one-out` or `stand-in`."""

    @classmethod
    def of(
        cls, scores: ArrayLike, peaks: ArrayLike, *, false_reject: float = 0.01, how: str = HELD_OUT
    ) -> Self:
        """`peaks` are the highest values of the images' anomaly maps."""
        check_budget(false_reject)
        ranked, tops = np.sort(np.asarray(scores, np.float64)), np.sort(np.asarray(peaks, np.float64))
        if ranked.size < 2:
            raise UsageError(f"{ranked.size} good image cannot calibrate a threshold: at least 2 are needed.")
        if not (np.isfinite(ranked).all() and np.isfinite(tops).all()):
            raise UsageError(
                "Good images score NaN or infinity, so no threshold can be set: fit with other settings."
            )
        threshold, enough = upper_bound(ranked, false_reject)
        share = max(REVIEW_FACTOR * false_reject, REVIEW_OF_STAND_INS if how == STAND_IN else 0)
        review, _ = upper_bound(ranked, min(share, 0.5))
        region, _ = upper_bound(tops, false_reject)
        middle = float(np.median(tops))
        rise, scale = region - middle, abs(middle) or 1.0
        if rise <= 1e-6 * scale:  # peaks that are all alike
            rise = scale
        return cls(
            scores=tuple(ranked.tolist()),
            false_reject=false_reject,
            threshold=threshold,
            review_threshold=review,
            region_threshold=region,
            heat_low=middle,
            heat_high=region + rise,
            guaranteed=enough and how == HELD_OUT,
            how=how,
        )

    def p_value(self, score: float) -> float:
        at_least = len(self.scores) - int(np.searchsorted(self.scores, score, side="left"))
        return (at_least + 1) / (len(self.scores) + 1)

    def verdict(self, score: float) -> Verdict:
        if score < self.review_threshold:
            return Verdict.ACCEPT
        return Verdict.REVIEW if score < self.threshold else Verdict.REJECT  # what cannot be compared, too

    @property
    def statement(self) -> str:
        n, budget = len(self.scores), f"{self.false_reject:g}"
        source = f"{n} {self.how} good images"
        if self.how == STAND_IN:
            return (
                f"For want of images calibrated on {n} good ones of other products, as a model that knows as "
                f"few of them scores these: no rate of false rejects is guaranteed. {self.needed} held-out "
                "images would guarantee it."
            )
        if rejected := _allowed(n, self.false_reject):
            good = f"{rejected} in {n + 1} good parts drawn like them"
            if self.guaranteed:
                return f"Calibrated on {source}: at most {good} are rejected, within the budget of {budget}."
            return (
                f"Calibrated on {source}: about {good} are rejected, within the budget of {budget}. "
                f"{self.needed} held-out images would guarantee it."
            )
        return (
            f"{source} can guarantee no rate of false rejects below 1 in {n + 1}: the threshold for {budget} "
            f"is extrapolated from a normal tail. {self.needed} held-out images would guarantee it."
        )

    @property
    def needed(self) -> int:
        """Held-out images that guarantee the budget."""
        return math.ceil((1 - _ROUNDING) / self.false_reject) - 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "statement": self.statement}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """KeyError, TypeError or ValueError when these are not the fields of a calibration."""
        known = {key: value for key, value in fields.items() if key != "statement"}
        read = cls(**{**known, "scores": tuple(known["scores"])})
        heat = read.region_threshold, read.heat_low, read.heat_high
        if not all(map(math.isfinite, (*read.scores, read.review_threshold, read.threshold, *heat))):
            raise ValueError("the calibration is not finite")
        if not (
            all(low <= high for low, high in pairwise(read.scores))
            and read.review_threshold <= read.threshold
            and read.heat_low < read.heat_high
            and SMALLEST_BUDGET <= read.false_reject <= 0.5
        ):
            raise ValueError("the calibration contradicts itself")
        return read


def upper_bound(
    ranked: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]], share: float
) -> tuple[float, bool]:
    """The lowest score that at most `share` of good images reach, and whether there are enough to tell.

    A verdict rejects at the threshold itself, so the bound lies just above the order statistic.
    """
    n = len(ranked)
    if allowed := _allowed(n, share):
        return _just_above(ranked[n - allowed]), True
    spread = float(np.std(ranked, ddof=1)) * math.sqrt(1 + 1 / n)
    tail = float(np.mean(ranked)) + student_quantile(1 - share, n - 1) * spread
    return _just_above(max(tail, ranked[-1])), False


def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t, for shares from a half: the integral of its density read backwards."""
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    # With t = sqrt(freedom) / tan(angle) the density is a power of the sine, smooth on a finite interval.
    angles = np.linspace(0, math.pi / 2, 20001)
    density = math.exp(log_scale) * math.sqrt(freedom) * np.sin(angles) ** (freedom - 1)
    beyond = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2) * angles[1]))
    return math.sqrt(freedom) / math.tan(float(np.interp(1 - share, beyond, angles)))


def _allowed(n: int, share: float) -> int:
    """How many of n + 1 good images may be rejected."""
    return math.floor(share * (n + 1) + _ROUNDING)


def _just_above(score: float) -> float:
    # In the precision of graphs: a comparison comes out the same whether it is made in float32 or in float64.
    # Nothing closer to zero than whole precision reaches, for who calls us may have made that zero.
    above = float(np.nextafter(np.float32(score), np.float32(math.inf)))
    if abs(above) >= _TINY:
        return above
    return 0.0 if score <= -_TINY else _TINY
