"""One model for several products, through the whole house."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import blemish
from blemish import data
from blemish.data import Role, Sample, Samples, Tail, demo
from blemish.errors import DataError
from blemish.evaluate import evaluate
from blemish.images import PixelFormat
from blemish.methods import Run
from blemish.methods._contract import in_turn
from blemish.model import Verdict

SIZE = (96, 96)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("products")
    demo.write(root, size=96, train=30, test_good=6, test_bad=6)
    for path in (root / "gear").rglob("*.png"):
        if path.parts[-3] != "ground_truth":
            cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    samples = data.read(root)
    colours = {sample.klass: sample.read().shape[2] for sample in samples}
    assert set(colours.values()) == {1, 3}, "grey and coloured products in one model"
    # The gear is a tail class: too few images to hold any out.
    train = samples.klass("gear").role(Role.TRAIN)
    left_out = {sample.name for sample in train[4:]}
    return samples.with_items(sample for sample in samples if sample.name not in left_out)


@pytest.fixture(scope="module")
def model(products: Samples) -> blemish.Inspector:
    return blemish.fit(products, method="knn", size=SIZE, options={"rows": 1024})


def test_products_are_told_apart(products: Samples, model: blemish.Inspector) -> None:
    assert model.classes == ("gear", "label", "weave")
    assert model.manifest["class_counts"] == {"gear": 4, "label": 24, "weave": 24}
    assert model.manifest["calibration_counts"] == {"gear": 0, "label": 6, "weave": 6}
    assert model.manifest["n_calibration"] == len(model.calibration.scores) == 12
    records = evaluate(model, products).records
    assert [record["n_calibration"] for record in records] == [0, 6, 6], "so that they can be added up"
    assert model.format.grey_too
    good = [sample for sample in products.role(Role.TEST) if not sample.bad]
    seen = [model.inspect(sample.read()) for sample in good]
    right = [result.klass == sample.klass for result, sample in zip(seen, good, strict=True)]
    assert np.mean(right) > 0.9
    assert all(0 < (result.class_confidence or 0) <= 1 for result in seen)


def test_what_no_product_looks_like_is_not_accepted(model: blemish.Inspector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert model.inspect(noise).verdict is not Verdict.ACCEPT


def test_thresholds_are_each_product_s_own_where_it_can_spare_images(model: blemish.Inspector) -> None:
    own = model.calibrations.own
    assert set(own) == {"label", "weave"}
    assert own["label"].threshold != own["weave"].threshold
    assert model.calibrations.for_class("gear") is model.calibration
    others = "With those of all products, which may reject its good parts, for want of images: gear.\n"
    assert f"label, weave. {others}" in model.statement


def test_evaluation_is_by_class_and_never_pooled(products: Samples, model: blemish.Inspector) -> None:
    counts = {"label": 30, "weave": 30, "gear": 4}
    listed = replace(products, tail=Tail("step7", 0, ("label", "weave", "gear"), counts))
    evaluation = evaluate(model, listed)
    assert [record["class"] for record in evaluation.records] == ["gear", "label", "weave"]
    assert [record["n_train"] for record in evaluation.records] == [4, 24, 24]
    assert evaluation.mean["n_train"] == 52
    told = evaluation.to_json()
    aurocs = {record["class"]: record["image_auroc"] for record in told["records"]}
    assert told["groups"]["low"]["image_auroc"] == aurocs["gear"]
    gap = told["groups"]["high"]["image_auroc"] - told["groups"]["low"]["image_auroc"]
    assert told["gap"]["image_auroc"] == pytest.approx(gap)
    assert told["groups"]["high"]["image_auroc"] == pytest.approx((aurocs["label"] + aurocs["weave"]) / 2)
    assert told["mean"]["image_auroc"] == pytest.approx(np.mean(list(aurocs.values())))
    assert told["groups"]["few"] == told["groups"]["low"], "4 images, where the others have 24"
    assert told["groups"]["many"] == told["groups"]["high"]
    assert "groups" not in evaluate(model, products).to_json(), "without a list nothing is head or tail"


def test_a_product_that_it_was_not_fitted_on_is_refused(
    products: Samples, model: blemish.Inspector, tmp_path: Path
) -> None:
    strange = products.with_items(replace(sample, klass="bolt") for sample in products.role(Role.TEST))
    with pytest.raises(DataError, match=r"class bolt.* not fitted on: name one of gear, label, weave"):
        evaluate(model, strange)
    model.save(tmp_path / "three.blemish")
    assert blemish.load(tmp_path / "three.blemish").calibrations == model.calibrations


def test_methods_that_do_not_tell_products_apart_take_the_word_for_it(products: Samples) -> None:
    options = {"updates": 2, "width": 4, "check_every": 0}
    model = blemish.fit(products, method="ear", size=SIZE, options=options)
    sample = products.klass("weave").role(Role.TEST)[0]
    assert model.inspect(sample.read()).klass is None
    given = model.inspect(sample.read(), klass="weave")
    assert (given.klass, given.class_confidence) == ("weave", None)
    assert given.threshold == model.calibrations.own["weave"].threshold


def test_rates_are_those_of_the_verdicts_though_nobody_says_which_product_it_is(
    products: Samples, model: blemish.Inspector
) -> None:
    weave = products.klass("weave")
    unnamed = weave.with_items(replace(sample, klass="") for sample in weave)
    [measured] = evaluate(model, unnamed).classes
    assert {one.threshold for one in measured.tested} == {model.calibrations.own["weave"].threshold}
    bad, good = ([one for one in measured.tested if one.bad is is_bad] for is_bad in (True, False))
    missed = np.mean([one.verdict is not Verdict.REJECT for one in bad])
    rejected = np.mean([one.verdict is Verdict.REJECT for one in good])
    assert (measured.record["miss_rate"], measured.record["false_reject_rate"]) == (missed, rejected)


def test_products_are_painted_on_each_by_its_own_looks() -> None:
    """A grey disc on white beside a coloured pattern that fills the picture."""
    rng = np.random.default_rng(0)
    discs = np.full((8, 96, 96, 3), 230, np.uint8)
    for disc in discs:
        cv2.circle(disc, (48, 48), 26, (90, 90, 90), -1)
    discs += rng.integers(0, 9, (8, 96, 96, 1), np.uint8)
    patterns = rng.integers(0, 255, (8, 96, 96, 3), np.uint8)
    samples = Samples(
        "two",
        "arrays",
        tuple(
            Sample(name=f"{klass}{number}", role=Role.TRAIN, bad=False, klass=klass, pixels=picture)
            for klass, some in (("disc", discs), ("pattern", patterns))
            for number, picture in enumerate(some)
        ),
    )
    source = Run(size=(96, 96), format=PixelFormat.of([("a", patterns[0])])).source(samples)
    assert source.foreground[:8].mean() < 0.5, "the disc"
    assert source.foreground[8:].all()
    assert source.grey.tolist() == [True] * 8 + [False] * 8


def test_each_product_has_its_turn() -> None:
    blank = np.zeros((2, 2, 3), np.uint8)
    items = [
        Sample(name=f"{number}", role=Role.TRAIN, bad=False, klass=klass, pixels=blank)
        for number, klass in enumerate("aaaabbc")
    ]
    assert in_turn(Samples("some", "arrays", tuple(items))) == [0, 4, 6, 1, 5, 2, 3]
