"""LTAD: thresholds of products that have few images, from images left out one at a time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blemish import Verdict
from blemish.data import Sample, Samples
from blemish.methods import StandIns
from tests.methods.product import SIDE, fit, marked, pictures
from tests.methods.test_ltad import COUNTS, LEARNED, QUICK, changed, fitted, ready, state
from tests.methods.test_uniad import products


def test_few_images_of_several_products(small: dict[str, str]) -> None:
    samples = products({"a": 5, "b": 1, "c": 3})
    model = fitted(QUICK, samples, **small)
    assert model.calibration.how == "leave-one-out"
    assert len(model.calibration.scores) == 5, "those of products that can spare one"
    assert model.inspect(samples[5].read(), klass="b").klass == "b"


@pytest.mark.parametrize("options", [QUICK, LEARNED], ids=["closed form", "learned"])
def test_few_images_in_any_order(options: dict[str, Any], small: dict[str, str]) -> None:
    """Halves by place alone would each lack a product."""
    samples = products({"a": 3, "b": 3})
    mixed = samples.with_items(samples[number] for number in (0, 3, 1, 4, 2, 5))
    assert len(fitted(options, mixed, **small).calibration.scores) == 6


def test_a_product_of_few_images_has_a_threshold_of_its_own_beside_large_ones(small: dict[str, str]) -> None:
    samples = products({"a": 30, "b": 6, "c": 3})
    model = fitted({**QUICK, "score_of": "sad"}, samples, **small)
    own = model.calibrations.own
    assert {klass: (each.how, len(each.scores)) for klass, each in own.items()} == {
        "a": ("held-out", 6),
        "b": ("leave-one-out", 6),
        "c": ("stand-in", 6 * (6 + 3)),
    }
    assert model.manifest["calibration_counts"] == {"a": 6, "b": 6, "c": 0}
    known = [model.inspect(sample.read(), klass="b").score for sample in samples.klass("b")]
    assert min(own["b"].scores) > max(known), "each was scored by a model that does not know it"
    assert "own: a, b. By images left out one at a time: b. With those that others have" in model.statement
    assert "for want of more: c.\nAll products" in model.statement
    assert model.calibration.scores == own["a"].scores
    model = fitted({**QUICK, "kappa": 1.0}, samples, **small)
    assert set(model.calibrations.own) == {"a"}, "what rebuilds knows them all, and counts as much"
    assert "for want of images: b, c.\nAll products" in model.statement


def striped(samples: Samples) -> Samples:
    """With a stripe, which lies elsewhere in each picture: a few do not show where it may be."""
    rng = np.random.default_rng(0)
    seen = np.stack([sample.read() for sample in samples])
    for image in seen:
        place = rng.integers(4, SIDE - 12)
        image[:, place : place + 8] += np.uint8(90)
    return samples.with_items(replace(each, pixels=image) for each, image in zip(samples, seen, strict=True))


@pytest.mark.parametrize("count", [1, 3])
def test_good_parts_of_a_product_of_few_images_are_not_rejected(count: int, small: dict[str, str]) -> None:
    samples = striped(products({"a": 30, "b": 30, "c": 20}))
    few, others = samples.klass("c")[:count], samples.klass("c")[count:]
    known = samples.with_items([*samples.klass("a"), *samples.klass("b"), *few])
    model = fitted({**QUICK, "score_of": "sad"}, known, **small)
    found = [model.inspect(sample.read(), klass="c") for sample in others]
    kept = [each for each in found if each.verdict is not Verdict.REJECT]
    assert len(kept) >= 0.75 * len(others)
    assert found[0].notes == ("For want of images c is judged as others of which as few are known.",)
    strange = [each for each in kept if each.score >= model.calibration.threshold]
    assert len(strange) >= 0.2 * len(others), "that of the others would reject these"
    assert found[0].threshold < 2 * max(each.score for each in found)


def test_one_threshold_for_all_products_where_each_has_few_images(small: dict[str, str]) -> None:
    samples = products({"a": 3, "b": 2})
    model = fitted({**QUICK, "score_of": "sad"}, samples, **small)
    assert not model.calibrations.own
    assert model.statement.endswith(" For want of images it is for all products.")
    found = model.inspect(samples[0].read(), klass="a")
    assert found.notes == ("For want of images a is judged by the thresholds of all products.",)


class Knows(nn.Module):
    """A scorer of a product of which it knows so many images."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


def test_stand_ins_score_as_what_is_known_of_their_product() -> None:
    """Here a good picture scores 12 by how many the model knows; of a product twice as strange 24."""
    train = products({"a": 20, "b": 9, "c": 4, "d": 1})
    strange = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 5.0}
    asked = []

    def without(known: Samples, left: Sequence[Sample]) -> nn.Module:
        [klass] = {sample.klass for sample in left}
        return Knows(len(known.klass(klass)) - len({sample.name for sample in left}))

    def judge(scorer: nn.Module, sample: Sample) -> tuple[float, float]:
        assert isinstance(scorer, Knows)
        asked.append(sample.name)
        score = strange[sample.klass] * 12 / scorer.count
        return score, 10 * score

    held = train.with_items(replace(each, name=f"held {each.name}") for each in train.klass("b")[:5])
    given: dict[str, Any] = {"without": without, "judge": judge, "seed": 0}
    others = StandIns(train, held, ["a", "b"], **given)
    # A model of 4 scores 3 what one of 3 scores 4, and c is three times as strange.
    np.testing.assert_allclose(others.of(train.klass("c")), np.outer(np.full(6 * 9 + 6 * 5, 9), [1, 10]))
    assert sum(name.startswith("held") for name in asked) == 6 * 5, "of b what was held out is there"
    count = len(asked)
    others.of(train.klass("c"))
    assert len(asked) == count + 4, "they are cut once"
    # Of one image nothing is known: what others score stands as it is.
    scores = np.sort([score for score, _ in others.of(train.klass("d"))])
    np.testing.assert_allclose(scores, np.repeat([12, 24], [6 * 9, 6 * 5]))
    assert StandIns(train, held, ["c"], **given).of(train.klass("c")) == [], "none has more"


def test_a_picture_left_out_leaves_the_model_as_it_is(small: dict[str, str]) -> None:
    samples = products(COUNTS)
    method, naming, judgement, run = ready({**QUICK, "score_of": "sad"}, samples, **small)
    method.shipped = method.learned(naming, judgement, samples, run, {})
    before = state(method.shipped)
    without = [*method.leave_one_out(samples, run, samples.klass("b"))]
    assert not changed(method.shipped, before)
    assert all(changed(each, before) for each in without)
    photo = torch.from_numpy(run.pixels(samples.klass("a")))
    called = torch.eye(3)[:1].expand(len(photo), -1)
    for each in without:  # other products are judged as ever
        torch.testing.assert_close(each(photo, called)[0], method.shipped(photo, called)[0])


@pytest.mark.parametrize("method", ["reb", "ltad"])
def test_pictures_that_are_all_alike_are_accepted(method: str, small: dict[str, str]) -> None:
    [picture] = pictures(1)
    options = {} if method == "reb" else {"score_of": "sad", "name_updates": 1}
    model = fit([picture] * 6, method=method, options=options, **small)
    assert model.inspect(picture).verdict is Verdict.ACCEPT
    assert model.inspect(marked(picture)).verdict is Verdict.REJECT


def test_two_pictures_are_enough_for_a_head(small: dict[str, str]) -> None:
    for count in (2, 3):
        options = {"updates": 1, "check_every": 0}
        model = fit(pictures(count), method="fractalad", options=options, **small)
        assert np.isfinite(model.inspect(pictures(1)[0]).score)
