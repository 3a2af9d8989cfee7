"""LTAD with a vision–language model: names go through its text tower."""

from pathlib import Path

import numpy as np
import pytest
import torch

import blemish
from blemish.errors import UsageError
from blemish.methods import _training, create
from blemish.nets.namestate import Words
from tests.methods.product import SIDE, run_for
from tests.methods.test_ltad import COUNTS, SPOKEN, changed, ready, state, weights
from tests.methods.test_uniad import products
from tests.nets.test_language import save_language


@pytest.mark.parametrize(("kind", "tier"), [("align", 0), ("clip", 1), ("siglip", 1)])
def test_names_go_through_the_text_tower_where_there_is_one(kind: str, tier: int, tmp_path: Path) -> None:
    folder = save_language(kind, tmp_path)
    options = {**SPOKEN, "semantic": "learned", "vlm": str(folder)}
    method, naming, judgement, run = ready(options, products(COUNTS))
    assert method.language is not None
    language, before = state(method.language), state(naming.network)
    names = naming.network.names
    assert isinstance(names, Words)
    assert [len(name) for name in names.names] == [2, 2, 2]
    losses = _training.train(naming, run, {})
    assert np.isfinite(losses).all()
    assert {name for name in changed(naming.network, before) if not name.startswith("vae")} == {
        "names.names.0", "names.names.1", "names.names.2"
    }  # fmt: skip
    with torch.no_grad():
        tables = names()
    judgement.network.names.keep(tables)  # type: ignore[operator]
    judgement.begin()
    before = state(judgement.network)
    assert np.isfinite(_training.train(judgement, run, {})).all()
    found = {name.partition(".")[0] for name in changed(judgement.network, before)}
    assert found == {"rm", "sad"}, "tables stay as they are"
    assert not changed(method.language, language)
    scorer = method.scorer(judgement, products(COUNTS), run)
    assert not any(name.startswith(("gaze", "names.language")) for name in method.weights(scorer))
    assert method.facts()["tier"] == tier
    assert method.facts()["tier_in_words"].startswith(f"tier {tier}: names through")


@pytest.mark.parametrize("semantic", ["lite", "learned"])
@pytest.mark.parametrize("kind", ["align", "clip", "siglip"])
def test_a_model_with_a_language(kind: str, semantic: str, tmp_path: Path) -> None:
    folder = str(save_language(kind, tmp_path))
    # Kappa, for what rebuilds features of noise by random weights is all rounding.
    options = {**SPOKEN, "vlm": folder, "ensemble": True, "semantic": semantic, "kappa": 64.0}
    model = blemish.fit(products({"a": 6, "b": 3}), method="ltad", size=SIDE, options=options)
    assert model.manifest["parity"]["score"] <= (
        1e-3 if semantic == "lite" else 1e-4
    )  # of a small spread, more
    result = model.inspect(products({"a": 6, "b": 3})[0].read())
    assert np.isfinite(result.score)
    assert len(model.archive.weights) < 1e6, "no tower in the file's weights"
    assert model.manifest["backbone"] == folder
    tier = model.manifest["facts"]["tier_in_words"]
    assert tier.startswith("tier 0: names" if kind == "align" else "tier 1: names")
    assert ("not with texts" in tier) == (semantic == "lite")
    five = [np.zeros((SIDE, SIDE, 5), np.uint8)] * 4
    with pytest.raises(UsageError, match="these have 5 channels: fit without --vlm"):
        blemish.fit(five, method="ltad", size=SIDE, options=options)


@pytest.mark.parametrize("kind", ["align", "clip", "siglip"])
def test_one_seed_one_model_with_a_language(kind: str, tmp_path: Path) -> None:
    options = {**SPOKEN, "semantic": "learned", "vlm": str(save_language(kind, tmp_path))}
    first, again, other = (weights(options, seed=seed) for seed in (0, 0, 1))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_patches_of_every_block_of_a_language_count_alike(tmp_path: Path) -> None:
    options = {**SPOKEN, "vlm": str(save_language("align", tmp_path))}
    method, *_ = ready(options, products(COUNTS))
    channels = method.gaze.shapes["compared"][0]
    assert len(method.patches.stages) == 4
    assert sum(method.patches.stages) == channels


def test_a_language_looks_in_place_of_a_backbone() -> None:
    samples = products({"a": 3})
    with pytest.raises(UsageError, match="align looks in place of a backbone: leave resnet18 out"):
        create("ltad", options={"vlm": "align"}).look(samples, run_for(samples, backbone="resnet18"))
