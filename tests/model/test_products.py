import json

import numpy as np
import pytest

from blemish.errors import ModelFileError, UsageError
from blemish.model import Inspector, Verdict
from blemish.model.products import UNKNOWN, Calibrations, Good, Seen, recognised
from tests.model import toy

CLASSES = ["dark", "bright"]


def grey(level: int) -> np.ndarray:
    return np.full((24, 32, 3), level, np.uint8)


def inspector(*, tail: int = 0, told: bool = False) -> Inspector:
    """Dark parts score about 0.1 and bright ones about 0.8; of a third class there are a few."""
    archive = toy.archive(classes=True, told=told)
    good = [
        Good(middle + spread, middle + spread, klass, confidence)
        for klass, middle, confidence in (("dark", 0.1, 0.9), ("bright", 0.8, 0.8))
        for spread in np.linspace(-0.02, 0.02, 120)
    ]
    good += [Good(0.5, 0.5, "rare", 0.7)] * tail
    archive.calibration.clear()
    archive.calibration.update(json.loads(json.dumps(Calibrations.of(good).to_json())))
    archive.manifest["classes"] = CLASSES
    return Inspector(archive, name="toy.blemish")


def test_each_product_has_thresholds_of_its_own() -> None:
    model = inspector()
    dark, bright = (model.inspect(grey(level)) for level in (26, 204))
    assert (dark.klass, bright.klass) == ("dark", "bright")
    assert dark.verdict is bright.verdict is Verdict.ACCEPT
    assert dark.threshold < 0.13
    assert bright.threshold > 0.8
    assert dark.class_confidence == pytest.approx(1 - 26 / 255)
    told = dark.record()
    assert (told["class"], told["class_confidence"]) == ("dark", dark.class_confidence)
    assert model.inspect(grey(204), klass="dark").verdict is Verdict.REJECT, (
        "as a dark one it is far too bright"
    )
    assert set(model.info()["calibration"]["classes"]) == set(CLASSES)
    assert model.info()["calibration"]["least_confidence"] == model.calibrations.least_confidence
    assert "scores" not in json.dumps(model.info())


def test_what_the_map_calls_a_defect_depends_on_the_product() -> None:
    model = inspector()
    assert model.inspect(grey(204)).regions == ()
    assert model.inspect(grey(204), klass="dark").regions


def test_a_picture_of_no_known_product_is_never_accepted() -> None:
    model = inspector()
    unknown = model.inspect(grey(128))
    assert unknown.klass is None
    assert unknown.class_confidence == pytest.approx(0.5, abs=0.01)
    assert unknown.verdict is Verdict.REVIEW
    assert unknown.record()["notes"] == ["It looks like none of the products that the model knows."]
    assert unknown.threshold == model.calibration.threshold


def test_that_a_picture_looks_more_like_another_product_than_the_one_given_is_told() -> None:
    model = inspector()
    wrong, right = (model.inspect(grey(26), klass=klass) for klass in ("bright", "dark"))
    assert wrong.klass == "bright"
    assert wrong.class_confidence == pytest.approx(26 / 255)
    assert wrong.notes == ("It looks more like dark than bright.",)
    assert right.notes == ()
    shares = np.array([0.2, 0.3])
    assert recognised(shares, CLASSES, "dark", 0.1) == Seen("dark", 0.2), "as good pictures may"
    assert recognised(shares, CLASSES, "bright", 0.5) == Seen("bright", 0.3), "and products of few images"
    alike = np.array([0.3001, 0.3])  # called by the same name
    assert recognised(alike, CLASSES, "bright", 0.5) == Seen("bright", 0.3)
    strange = np.array([0.2, 0.01])  # and like none at all
    assert recognised(strange, CLASSES, "bright", 0.5) == Seen("bright", 0.01, UNKNOWN)


def test_a_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="knows no class shiny: name one of dark, bright"):
        inspector().inspect(grey(9), klass="shiny")
    with pytest.raises(UsageError, match="one product without a name"):
        toy.inspector().inspect(grey(9), klass="shiny")


def test_a_graph_may_be_told_the_class() -> None:
    model = inspector(told=True)
    untold, dark, bright = (model.inspect(grey(204), klass=klass) for klass in (None, "dark", "bright"))
    assert untold.score == dark.score == pytest.approx(204 / 255)
    assert bright.score == pytest.approx(204 / 255 - 1)


def test_few_images_of_a_product_share_the_thresholds_of_all() -> None:
    calibrations = inspector(tail=4).calibrations
    assert set(calibrations.own) == set(CLASSES)
    assert calibrations.for_class("rare") is calibrations.pooled
    assert len(calibrations.pooled.scores) == 244
    assert inspector().statement.startswith("With thresholds of their own: bright, dark.\nAll products")
    assert set(inspector(tail=5).calibrations.own) == {*CLASSES, "rare"}


def test_a_product_without_a_threshold_of_its_own_says_so() -> None:
    model = inspector(tail=4)
    model.archive.manifest["classes"] = model.classes = ("dark", "rare")
    assert "which may reject its good parts, for want of images: rare." in model.statement
    assert model.inspect(grey(26)).notes == ()
    found = model.inspect(grey(204), klass="rare")
    assert found.notes == ("For want of images rare is judged by the thresholds of all products.",)


def test_products_of_a_few_images_left_out_do_not_set_the_threshold_of_all() -> None:
    left = [Good(score, score, "dark", 0.9, "leave-one-out") for score in np.linspace(0, 0.1, 12)]
    wild = [Good(score, score, "rare", 0.9, "leave-one-out") for score in (3.0, 9.0)]
    both = Calibrations.of(left + wild)
    assert both.pooled == Calibrations.of(left).pooled
    assert both.for_class("rare") is both.pooled
    assert Calibrations.of(wild).pooled.threshold > 9, "where there are no others"


def test_a_product_may_look_less_like_itself_than_others_that_are_all_certain() -> None:
    sure = [Good(score, score, "dark", 1 - 1e-7) for score in np.linspace(0, 0.1, 30)]
    least = Calibrations.of(sure).least_confidence
    assert least == 0.9
    assert recognised(np.array([0.0004, 0.9996]), CLASSES, None, least) == Seen("bright", 0.9996)
    assert recognised(np.array([0.01, 0.8]), CLASSES, None, least).klass is None
    shaky = [Good(0.1, 0.1, "dark", confidence) for confidence in np.linspace(0.3, 0.9, 150)]
    assert Calibrations.of(shaky).least_confidence == pytest.approx(0.3, abs=1e-3)


def test_images_left_out_tell_of_their_own_product_alone_beside_others_that_were_held_out() -> None:
    held = [Good(score, score, "dark", 0.9) for score in np.linspace(0, 0.1, 30)]
    left = [Good(score, score, "rare", 0.2, "leave-one-out") for score in np.linspace(0.5, 0.6, 8)]
    both, alone = Calibrations.of(held + left), Calibrations.of(left)
    assert both.pooled == Calibrations.of(held).pooled
    assert both.least_confidence == Calibrations.of(held).least_confidence
    assert [both.own[klass].how for klass in ("dark", "rare")] == ["held-out", "leave-one-out"]
    assert both.own["rare"] == alone.own["rare"]
    assert (alone.pooled.how, len(alone.pooled.scores)) == ("leave-one-out", 8)
    archive = inspector().archive
    archive.calibration.clear()
    archive.calibration.update(both.to_json())
    assert "By images left out one at a time: rare." in Inspector(archive).statement


def test_what_looks_like_each_product_as_chance_has_it_looks_like_none() -> None:
    shares = np.array([0.3, 0.35])
    assert recognised(shares, CLASSES, None, 0.1) == Seen(None, 0.35, UNKNOWN)
    assert recognised(np.array([0.1, 0.6]), CLASSES, None, 0.1) == Seen("bright", 0.6)
    for least in (None, 0.5):  # called by the same name, products are all alike
        assert recognised(np.array([0.5, 0.5]), CLASSES, None, least) == Seen(None, 0.5, UNKNOWN)


def test_one_product_is_as_ever() -> None:
    good = [Good(score, score) for score in np.linspace(0, 1, 30)]
    calibrations = Calibrations.of(good)
    assert calibrations.to_json() == calibrations.pooled.to_json()
    assert Calibrations.from_json(calibrations.to_json()) == calibrations
    assert recognised(None, ["nut"], None, None) == Seen("nut", None)
    assert recognised(None, [""], None, None) == Seen(None, None)
    assert recognised(None, CLASSES, None, None) == Seen(None, None), "the method does not tell them apart"


@pytest.mark.parametrize(
    "damage", [{"least_confidence": float("nan")}, {"classes": {"dark": {"scores": []}}}]
)
def test_damaged_calibrations_are_refused(damage: dict[str, object]) -> None:
    archive = inspector().archive
    archive.calibration.update(damage)
    with pytest.raises(ModelFileError, match="does not describe a model"):
        Inspector(archive)
