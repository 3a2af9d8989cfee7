"""Pictures taken another time, and that LTAD's closed form makes little of it."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import blemish
from blemish.images import PixelFormat
from blemish.methods import create
from blemish.methods._conditions import NOISE, taken_again
from blemish.methods._normal import AGAIN, NormalPatches
from blemish.methods.ltad import LTAD
from tests.methods.product import SIDE, marked, pictures, run_for
from tests.methods.test_uniad import products

NEITHER = {"levelled": 0.0, "swayed": 0.0}


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 250), (np.float32, 1 / 255)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_picture_taken_again_differs_a_little(dtype: Any, scale: float, channels: int) -> None:
    picture = (pictures(1, channels)[0].astype(np.float64) * scale).astype(dtype)
    fmt = PixelFormat.of([("0", picture), ("white", np.full_like(picture, 255 * scale))])
    span = fmt.white - fmt.black
    apart = []
    for number in range(20):
        again = taken_again(picture, fmt, np.random.default_rng([number]))
        assert again.dtype == picture.dtype
        assert again.shape == picture.shape
        assert fmt.black <= again.min() <= again.max() <= fmt.white
        np.testing.assert_array_equal(again, taken_again(picture, fmt, np.random.default_rng([number])))
        apart.append((again.astype(np.float64) - picture).mean() / span)
        assert abs(apart[-1]) <= 0.1 * (picture.mean() - fmt.black) / span + NOISE
    assert np.std(apart) > 0.01, "some are brighter, some darker"


def closed(options: dict[str, Any], small: dict[str, str]) -> NormalPatches:
    samples = products({"a": AGAIN + 2, "b": 3})
    run, method = run_for(samples, **small), create("ltad", options={"score_of": "sad", **options})
    assert isinstance(method, LTAD)
    method.look(samples, run)
    return method.patches


def test_how_patches_change_counts_beside_how_they_differ(small: dict[str, str]) -> None:
    samples, plain = products({"a": AGAIN + 2, "b": 3}), closed({"swayed": 0.0}, small)
    swayed = closed({"swayed": 2.0}, small)
    first = [sample.name for klass in "ab" for sample in samples.klass(klass)[:AGAIN]]
    assert swayed.taken_again == {*first}
    assert not plain.taken_again
    for klass in "ab":
        part = samples.klass(klass)
        before, after = plain.moments(part), swayed.moments(part)
        torch.testing.assert_close(after.mean, before.mean)
        off = torch.cat(
            [
                (swayed.of(each, swayed.found_again) - swayed.of(each)).flatten(1).double()
                for each in part[:AGAIN]
            ],
            dim=1,
        )
        torch.testing.assert_close(after.covariance - before.covariance, 2 * off @ off.T / off.shape[1])


def test_levelled_patches_have_most_of_the_mean_taken_off(small: dict[str, str]) -> None:
    picture = products({"a": 1})[0]
    raw, level = (closed({"swayed": 0.0, "levelled": share}, small).of(picture) for share in (0.0, 0.75))
    torch.testing.assert_close(level, raw - 0.75 * raw.mean((1, 2), keepdim=True), rtol=1e-2, atol=1e-2)


def strange(model: blemish.Inspector, picture: NDArray[np.uint8], good: list[NDArray[np.uint8]]) -> float:
    """How far its score lies above that of good ones, in their deviations."""
    scores = [model.inspect(each).score for each in good]
    return float((model.inspect(picture).score - np.mean(scores)) / np.std(scores))


def test_another_light_is_no_defect_and_another_colour_is() -> None:
    *learnt, one = pictures(40)
    darker, brighter = ((gain * one).round().astype(np.uint8) for gain in (0.8, 1.2))
    by = {}
    for name, options in {"as shipped": {}, "neither": NEITHER}.items():
        model = blemish.fit(
            learnt[:30], method="ltad", size=SIDE, options={"score_of": "sad", "groups": 16, **options}
        )
        by[name] = [strange(model, each, learnt[30:]) for each in (darker, brighter)]
        assert strange(model, marked(one), learnt[30:]) > 5
        assert strange(model, np.ascontiguousarray(255 - one), learnt[30:]) > 5, "all of it, but by far"
    assert max(by["as shipped"]) < 3
    assert min(by["neither"]) > 5
