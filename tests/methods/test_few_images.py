"""LTAD: thresholds of products that have few images, from images left out one at a time."""

from typing import Any

import numpy as np
import pytest
import torch

import blemish
from tests.methods.product import fit, marked, pictures
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
    }
    known = [model.inspect(sample.read(), klass="b").score for sample in samples.klass("b")]
    assert min(own["b"].scores) > max(known), "each was scored by a model that does not know it"
    assert "By images left out one at a time: b." in model.statement
    model = fitted({**QUICK, "kappa": 1.0}, samples, **small)
    assert set(model.calibrations.own) == {"a"}, "what rebuilds knows them all, and counts as much"


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
    assert model.inspect(picture).verdict is blemish.Verdict.ACCEPT
    assert model.inspect(marked(picture)).verdict is blemish.Verdict.REJECT


def test_two_pictures_are_enough_for_a_head(small: dict[str, str]) -> None:
    for count in (2, 3):
        options = {"updates": 1, "check_every": 0}
        model = fit(pictures(count), method="fractalad", options=options, **small)
        assert np.isfinite(model.inspect(pictures(1)[0]).score)
