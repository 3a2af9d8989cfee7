import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.stats import t

from blemish.errors import UsageError
from blemish.model import Calibration, Verdict
from blemish.model.calibration import student_quantile, upper_bound

# As graphs answer, of whom some make zero of what is below whole precision.
SCORE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
SCORES = st.one_of(
    st.lists(SCORE, min_size=2, max_size=250),
    st.lists(st.sampled_from([0.0, 1.0, 1.5]), min_size=2, max_size=250),  # ties
    st.lists(st.floats(-(2**-20), 2**-20, width=32, allow_subnormal=False), min_size=2, max_size=250),
)
BUDGET = st.floats(1e-6, 0.5) | st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.07, 0.1, 0.29, 0.5])
ORDER = list(Verdict)


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 1, n).astype(np.float32)


@given(draws=SCORES, budget=BUDGET)
@example(draws=[0.0, -1.0, -float(np.finfo(np.float32).tiny)], budget=0.5)
def test_coverage_is_exact(draws: list[float], budget: float) -> None:
    """Whichever of n + 1 exchangeable draws is the new one, at most a share `budget` can be rejected."""
    assume(len(draws) > 2)
    rejected = reviewed = 0
    for at, new in enumerate(draws):
        calibration = Calibration.of(draws[:at] + draws[at + 1 :], [0, 1], false_reject=budget)
        verdict = calibration.verdict(new)
        rejected += verdict is Verdict.REJECT
        reviewed += verdict is not Verdict.ACCEPT
        if calibration.guaranteed:
            assert (verdict is Verdict.REJECT) == (calibration.p_value(new) <= budget + 1e-9)
    if calibration.guaranteed:
        assert rejected <= len(draws) * (Fraction(budget) + Fraction(1, 10**9))
        assert reviewed <= len(draws) * (Fraction(min(5 * budget, 0.5)) + Fraction(1, 10**9))


@pytest.mark.parametrize(("n", "budget"), [(99, 0.01), (150, 0.01), (24, 0.05), (199, 0.07)])
@pytest.mark.parametrize("law", ["normal", "lognormal", "uniform", "standard_cauchy"])
def test_coverage_by_simulation(n: int, budget: float, law: str) -> None:
    draws = getattr(np.random.default_rng(7), law)(size=(20_000, n + 1))
    calibrating, new = np.sort(draws[:, :-1], axis=1), draws[:, -1]
    thresholds = [upper_bound(ranked, budget)[0] for ranked in calibrating]
    rate = float((new >= thresholds).mean())
    expected = math.floor(budget * (n + 1) + 1e-9) / (n + 1)
    deviation = math.sqrt(expected * (1 - expected) / len(new))
    assert abs(rate - expected) < 4 * deviation


def test_extrapolation_keeps_the_budget_for_normal_scores() -> None:
    draws = np.random.default_rng(3).normal(size=(4_000, 21))
    rate = np.mean([new >= upper_bound(np.sort(rest), 0.01)[0] for *rest, new in draws])
    assert 0.006 < rate < 0.014


@given(scores=SCORES, peaks=SCORES, budget=BUDGET, new=st.lists(SCORE, min_size=2, max_size=9))
def test_order(scores: list[float], peaks: list[float], budget: float, new: list[float]) -> None:
    calibration = Calibration.of(scores, peaks, false_reject=budget)
    assert calibration.review_threshold <= calibration.threshold
    assert -math.inf < calibration.heat_low < calibration.heat_high < math.inf
    assert calibration.heat_low < calibration.region_threshold < calibration.heat_high
    assert np.float32(calibration.threshold) == calibration.threshold
    assert np.float32(calibration.region_threshold) == calibration.region_threshold
    if not calibration.guaranteed:
        assert calibration.threshold > max(scores)
    ranked = sorted([*new, *scores])
    verdicts = [ORDER.index(calibration.verdict(score)) for score in ranked]
    p_values = [calibration.p_value(score) for score in ranked]
    assert verdicts == sorted(verdicts)
    assert p_values == sorted(p_values, reverse=True)
    assert 0 < p_values[-1] <= p_values[0] <= 1
    assert calibration.verdict(calibration.threshold) is Verdict.REJECT
    assert (
        Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False))) == calibration
    )


@given(draws=SCORES)
def test_p_value_is_super_uniform(draws: list[float]) -> None:
    assume(len(draws) > 2)
    p_values = sorted(
        Calibration.of(draws[:at] + draws[at + 1 :], [0, 1]).p_value(new) for at, new in enumerate(draws)
    )
    for rank, p_value in enumerate(p_values, start=1):
        assert p_value >= rank / len(draws) - 1e-12


@pytest.mark.parametrize("value", [0.0, 1e-6, -3.0, 1e6])
@pytest.mark.parametrize("n", [2, 99, 150])
def test_scores_that_are_all_alike(value: float, n: int) -> None:
    calibration = Calibration.of([value] * n, [value] * n)
    assert calibration.verdict(value) is Verdict.ACCEPT
    assert calibration.p_value(value) == 1
    assert calibration.verdict(value + 1) is Verdict.REJECT
    assert calibration.threshold == pytest.approx(value, rel=1e-6, abs=1e-12)
    assert calibration.heat_high - calibration.heat_low > 1e-7


def test_of_what_stands_in_a_quarter_is_for_a_person() -> None:
    scores = np.arange(1, 200.0)
    ours, others = (Calibration.of(scores, scores, how=how) for how in ("held-out", "stand-in"))
    assert (ours.threshold, ours.guaranteed) == (others.threshold, True)
    assert not others.guaranteed
    assert ours.review_threshold == pytest.approx(190)
    assert others.review_threshold == pytest.approx(150)
    assert others.statement.startswith("For want of images calibrated on 199 good ones of other products")
    assert "no rate of false rejects is guaranteed. 99 held-out images would" in others.statement
    assert Calibration.from_json(others.to_json()) == others


def test_a_threshold_just_above_nothing_is_above_it_for_all_who_compare() -> None:
    """Numbers so small that they have not their full digits are zero in some programs, and not in others."""
    calibration = Calibration.of([0.0] * 30, [0.0] * 30)
    assert calibration.threshold >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("budget", [0.5, 0.3, 0.29, 0.1, 0.07, 0.05, 0.01, 0.003, 0.001])
def test_how_many_images_are_needed(budget: float) -> None:
    needed = Calibration.of([0, 1], [0, 1], false_reject=budget).needed
    assert needed == math.ceil(1 / Fraction(str(budget))) - 1
    for n in {max(needed - 1, 2), max(needed, 2)}:
        assert Calibration.of(normal(n), [0, 1], false_reject=budget).guaranteed == (n >= needed)


@pytest.mark.parametrize("n", [5, 24, 98, 99, 150, 400])
def test_statement_tells_the_truth(n: int) -> None:
    scores = normal(n)
    calibration = Calibration.of(scores, scores)
    above = sum(calibration.verdict(float(score)) is Verdict.REJECT for score in scores)
    if n < 99:
        statement = (
            f"{n} held-out good images can guarantee no rate of false rejects below 1 in {n + 1}: the "
            "threshold for 0.01 is extrapolated from a normal tail. 99 held-out images would guarantee it."
        )
        tail = t.ppf(0.99, n - 1) * scores.std(ddof=1, dtype=float) * math.sqrt(1 + 1 / n)
        expected = max(scores.mean(dtype=float) + tail, scores.max())
        assert calibration.threshold == pytest.approx(expected, rel=1e-6)
        assert above == 0
    else:
        statement = (
            f"Calibrated on {n} held-out good images: at most {above + 1} in {n + 1} good parts drawn like "
            "them are rejected, within the budget of 0.01."
        )
        assert above + 1 == {99: 1, 150: 1, 400: 4}[n]  # one more, since the new part may be the worst
    assert calibration.statement == calibration.to_json()["statement"] == statement


@pytest.mark.parametrize(
    ("n", "budget", "rejected"), [(99, 0.29, 29), (99, 0.07, 7), (199, 0.07, 14), (98, 0.07, 6)]
)
def test_budgets_that_floats_cannot_express(n: int, budget: float, rejected: int) -> None:
    calibration = Calibration.of(range(n), [0, 1], false_reject=budget)
    assert f"at most {rejected} in {n + 1} good parts" in calibration.statement
    assert sum(calibration.verdict(score) is Verdict.REJECT for score in range(n)) == rejected - 1


def test_images_left_out_guarantee_nothing() -> None:
    held, left = (Calibration.of(normal(150), normal(150), how=how) for how in ("held-out", "leave-one-out"))
    assert held.guaranteed
    assert not left.guaranteed
    assert left.threshold == held.threshold
    assert left.statement == (
        "Calibrated on 150 leave-one-out good images: about 1 in 151 good parts drawn like them are "
        "rejected, within the budget of 0.01. 99 held-out images would guarantee it."
    )


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 23, 97, 149, 5000])
def test_student_quantile(freedom: int) -> None:
    for share in (0.5, 0.51, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999):
        expected = t.ppf(share, freedom)
        assert student_quantile(share, freedom) == pytest.approx(expected, rel=5e-5, abs=1e-9)
    assert student_quantile(1 - 1e-6, freedom) == pytest.approx(t.ppf(1 - 1e-6, freedom), rel=1e-3)


@pytest.mark.parametrize("budget", [0, -0.1, 0.51, 1, 1e-7, math.nan, math.inf])
def test_budget_that_makes_no_sense(budget: float) -> None:
    with pytest.raises(UsageError, match=r"budget is .*: give a share from 0\.000001 to 0\.5, such as 0\.01"):
        Calibration.of([1, 2], [1, 2], false_reject=budget)


def test_scores_that_calibrate_nothing() -> None:
    for scores in ([1.0][:0], [1.0]):
        with pytest.raises(UsageError, match=f"^{len(scores)} good image .*at least 2 are needed"):
            Calibration.of(scores, scores)
    for bad in (math.nan, math.inf, -math.inf):
        for scores, peaks in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])):
            with pytest.raises(UsageError, match="NaN or infinity"):
                Calibration.of(scores, peaks)


def test_a_score_that_is_no_number_is_never_accepted() -> None:
    assert Calibration.of(normal(9), normal(9)).verdict(math.nan) is Verdict.REJECT
