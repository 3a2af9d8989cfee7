"""EAR: what its settings ask for, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

import blemish
from blemish.errors import UsageError
from blemish.methods import create
from blemish.methods.ear import Config
from tests.methods.product import fit, pictures
from tests.methods.test_ear import QUICK, prepared


def test_a_backbone_is_named_where_one_looks() -> None:
    options = QUICK | {"compare": "features"}
    assert fit(pictures(6), method="ear", options=QUICK).manifest["backbone"] == "none"
    assert fit(pictures(6), method="ear", options=options).manifest["backbone"] == "lite0"
    with pytest.raises(UsageError, match="No backbone looks at anything here: leave resnet18 out"):
        prepared(QUICK, backbone="resnet18")


def test_no_foreground_is_taken_where_nothing_is_painted() -> None:
    with pytest.raises(UsageError, match="ear paints no defects and so needs no foreground"):
        fit(pictures(6), method="ear", options=QUICK | {"off": 0}, foreground="masks")
    assert create("ear").paints
    assert not create("ear", options={"variant": "mosaic", "hide": "riad"}).paints


def test_what_is_hidden_beside_is_hidden_of_examples_alone() -> None:
    _, plain, _ = prepared({**QUICK, "flips": False})
    _, more, _ = prepared({**QUICK, "flips": False, "mask_aug": 1.0})
    assert all(more.example(number)[1].sum() > plain.example(number)[1].sum() for number in range(4))
    for one, other in zip(plain.kept(plain.train), more.kept(more.train), strict=True):
        assert torch.equal(one.hidden, other.hidden)


def test_too_small_a_size_is_refused() -> None:
    with pytest.raises(UsageError, match="The working size is 40×16: give sides of at least 17 pixels"):
        blemish.fit(pictures(4), method="ear", size=(40, 16), options=QUICK)
    model = blemish.fit(pictures(4), method="ear", size=17, options=QUICK | {"batch": 1})
    assert np.isfinite(model.inspect(pictures(1)[0]).score)


def test_what_cannot_work_is_told() -> None:
    with pytest.raises(UsageError, match="width is 0: give at least 1"):
        Config(width=0)
    with pytest.raises(UsageError, match="off is 5: the U-Net has 4 skips"):
        Config(off=5)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: give a number above 0"),
        ({"smooth": -1.0}, "smooth is -1.0"),
        ({"mask_aug": 3.0}, "mask_aug is 3.0: give a share from 0 to 1"),
        ({"light": -0.1}, "light is -0.1"),
        ({"off": 1, "off_in_training": 2}, "has learned nothing, so leave it off"),
        ({"mask_channel": True, "hide": "riad"}, "are not told what is hidden"),
        ({"region": "mask", "hide": "nothing"}, "leave region at all"),
        ({"vit": "dino"}, "strokes has no transformer: leave --vit out"),
        ({"attention": "own.safetensors", "saliency": "mnist"}, "mnist has no weights to choose"),
        ({"cell": 8}, "no mosaic with cells: leave --cell out"),
        ({"mask_aug": 0.5, "hide": "random"}, "leave --mask-aug out"),
        ({"remedy": "mean_skip", "off": 2, "off_in_training": 2}, "its mean is of no use"),
    ]
    for options, sentence in wrong:
        with pytest.raises(UsageError, match=sentence):
            Config(**options)
    with pytest.raises(UsageError, match="name it with --vit"):
        Config(saliency="vit")
