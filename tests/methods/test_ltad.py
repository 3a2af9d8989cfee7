"""LTAD: what learns in which phase, with and without a language; what is made; what names are good for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blemish
from blemish.data import Samples
from blemish.errors import UsageError
from blemish.methods import Run, _phases, _training, create
from blemish.methods._phases import Judgement, Naming
from blemish.methods.ltad import LTAD, Config
from blemish.nets.namestate import NameState
from tests.methods.product import SIDE, datasets, pictures, run_for
from tests.methods.test_uniad import products
from tests.nets.test_language import save_language

TINY: dict[str, Any] = {
    "kept": 6,
    "width": 8,
    "heads": 2,
    "depth": 1,
    "hidden": 8,
    "vae_width": 8,
    "sad_hidden": 4,
}
FEW: dict[str, Any] = {"updates": 4, "batch": 8, "check_every": 0, "name_updates": 3, "name_batch": 4}
QUICK = {**TINY, **FEW}
LEARNED = {**QUICK, "semantic": "learned"}
SPOKEN = {name: value for name, value in QUICK.items() if name != "sad_hidden"} | {"tokens": 2}
"""Beside a vision–language model."""
COUNTS = {"a": 9, "b": 4, "c": 2}

Prepared = tuple[LTAD, Naming, Judgement, Run]
Prepare = Callable[..., Prepared]


def ready(options: dict[str, Any], samples: Samples, **given: Any) -> Prepared:
    run, method = run_for(samples, **given), create("ltad", options=options)
    assert isinstance(method, LTAD)
    method.look(samples, run)
    return method, *method.tasks(samples, run), run


@pytest.fixture
def prepared(small: dict[str, str]) -> Prepare:
    return lambda options, samples=None: ready(options, samples or products(COUNTS), **small)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


def test_each_phase_changes_what_it_learns_and_nothing_else(prepared: Prepare) -> None:
    method, naming, judgement, run = prepared(LEARNED)
    tower, both, second = state(method.gaze), state(naming.network), state(judgement.network)
    losses = _training.train(naming, run, {})
    assert np.isfinite(losses).all()
    vae = {f"vae.{name}" for name, _ in nn.Module.named_parameters(naming.network.vae)}  # type: ignore[arg-type]
    # The state normal is nothing, and what is read of it stays as it was but for decay.
    learned = {"names.names", *(f"names.tower.{part}" for part in ("of_name", "inner", "outer", "of_state"))}
    assert changed(naming.network, both) == vae | learned
    assert changed(judgement.network, second) == vae | learned, "both phases hold the same names"

    judgement.begin()
    before, tables = state(judgement.network), judgement.network.names()
    losses = _training.train(judgement, run, {})
    assert np.isfinite(losses).all()
    found = changed(judgement.network, before)
    assert judgement.network.rm is not None
    assert judgement.network.sad is not None
    rm = {f"rm.{name}" for name, _ in judgement.network.rm.named_parameters()}
    sad = {f"sad.{name}" for name, weight in judgement.network.sad.named_parameters() if weight.requires_grad}
    assert found == rm | sad | {"names.abnormal"}
    after = judgement.network.names()
    assert torch.equal(after.bare, tables.bare)
    assert torch.equal(after.normal, tables.normal)
    assert not torch.equal(after.abnormal, tables.abnormal)
    assert not changed(method.gaze, tower)


def test_every_class_is_drawn_equally_often_for_its_name(prepared: Prepare) -> None:
    _, naming, _, _ = prepared({**QUICK, "name_batch": 300})
    batch = naming.draw(2, 0)
    assert np.bincount(batch.classes) / 300 == pytest.approx([1 / 3] * 3, abs=0.09)
    again = naming.draw(2, 0)
    assert all(torch.equal(*pair) for pair in zip(batch[:4], again[:4], strict=True))
    assert not torch.equal(naming.draw(3, 0).noise, batch.noise)
    assert naming.draw(1, 0).beta == pytest.approx(1e-3)
    assert isinstance(naming.network.names, NameState)
    groups = {len(group["params"]): group["times"] for group in naming.optimiser().param_groups}
    assert groups[1] == _phases.NAMES


@pytest.mark.parametrize("oversample", [False, True])
def test_half_of_an_update_is_what_rare_classes_lack(oversample: bool, prepared: Prepare) -> None:
    options = {**LEARNED, "batch": 160, "oversample": oversample, "epochs": 1000}
    _, naming, judgement, _ = prepared(options)
    assert (naming.network.vae is None) == oversample
    judgement.begin()
    assert (judgement.synthesis is None) == oversample
    batch = judgement.draw(3, 0)
    assert batch.told is not None
    assert len(batch.parts) == 160
    classes = batch.told.classes
    real, rare = classes[:40], classes[40:]  # the classifier is shown every other picture
    assert np.bincount(real, minlength=3) / 40 == pytest.approx(np.array([9, 4, 2]) / 15, abs=0.15)
    assert np.bincount(rare, minlength=3) / 40 == pytest.approx(np.array([0, 5, 7]) / 12, abs=0.2)
    known = judgement.sight.of(judgement.train).maps[:, :6]
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    nearest = torch.cdist(batch.parts.flatten(1), known.flatten(1), **exact).amin(1)
    assert (nearest[:80] < 1e-3).all(), "real ones come first"
    assert (nearest[80:] < 1e-3).all() == oversample
    again = judgement.draw(3, 0)
    assert torch.equal(again.parts, batch.parts)
    assert again.seed == batch.seed != judgement.draw(2, 0).seed


def test_a_real_picture_takes_the_place_of_what_is_like_none(prepared: Prepare) -> None:
    _, _, judgement, _ = prepared({**LEARNED, "batch": 160})
    judgement.begin()
    assert judgement.synthesis is not None
    real = judgement.synthesis.real
    judgement.synthesis.real = real._replace(least=torch.tensor([2.0, 2.0, -1.0]))  # of "c" all are like some
    parts, known = judgement.draw(3, 0).parts[80:], judgement.sight.of(judgement.train).maps[:, :6]
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    nearest = torch.cdist(parts.flatten(1), known.flatten(1), **exact)
    shown = nearest.amin(1) < 1e-3
    assert 0.2 < float(shown.float().mean()) < 0.65, "5 of 12 that lack are those of b"
    klass = np.array([sample.klass for sample in judgement.train])[nearest[shown].argmin(1)]
    assert set(klass) == {"b"}
    assert [len(each.maps) for each in judgement.made(4)] == [0, 0, 4]


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"vae": False}])
def test_nothing_is_made_where_nothing_may_be(options: dict[str, Any], prepared: Prepare) -> None:
    _, naming, judgement, _ = prepared({**QUICK, **options})
    judgement.begin()
    assert naming.network.vae is None
    assert judgement.rare(torch.Generator()) == []
    _, naming, judgement, _ = prepared(QUICK, products({"a": 4, "b": 4}))
    assert naming.network.vae is None, "where all classes have as many, none lacks any"
    assert judgement.lacking is None
    _, naming, _, _ = prepared({**QUICK, "score_of": "sad"})
    assert naming.network.vae is None, "what is in closed form learns from nothing made"


def test_one_picture_of_an_update_is_real(prepared: Prepare) -> None:
    _, _, judgement, _ = prepared({**QUICK, "rho": 0.9, "batch": 2})
    judgement.begin()
    assert len(judgement.rare(torch.Generator())) == 1
    assert len(judgement.draw(1, 0).parts) == 2


def test_what_is_made_is_like_its_class(prepared: Prepare) -> None:
    _, naming, judgement, run = prepared({**QUICK, "name_updates": 20})
    _training.train(naming, run, {})
    judgement.begin()
    means = [judgement.sight.of(part).maps.mean((0, 2, 3)) for part in judgement.products]
    for number, made in enumerate(judgement.made(16)):
        off = [float((made.maps.mean((0, 2, 3)) - mean).norm()) for mean in means]
        assert int(np.argmin(off)) == number


def test_misses_are_overdone_once_there_is_a_reconstruction(prepared: Prepare) -> None:
    _, _, judgement, _ = prepared({**LEARNED, "batch": 64})
    told = [judgement.draw(update, 0).told for update in (2, 3)]
    assert [each.overdone for each in told if each is not None] == [False, True]
    assert [bool(each.wrong.push.any()) for each in told if each is not None] == [False, True]
    _, _, alone, _ = prepared({**LEARNED, "batch": 64, "score_of": "sad"})
    last = alone.draw(4, 0).told
    assert last is not None
    assert not last.overdone


def test_good_images_kept_aside_judge_the_reconstruction(small: dict[str, str]) -> None:
    samples = products({"a": 30, "b": 22, "c": 3})
    _, naming, judgement, _ = ready({**QUICK, "check_every": 2}, samples, **small)
    assert [len(judgement.aside.klass(name)) for name in "ab"] == [3, 2]
    aside = {sample.name for sample in judgement.aside}
    assert aside.isdisjoint(sample.name for part in naming.products for sample in part)
    judgement.network.eval()
    assert judgement.network.rm is not None
    with torch.no_grad():
        off = [
            float((parts - judgement.network.rm(parts)).square().mean())
            for parts in (judgement.sight.of(judgement.aside.klass(name)).maps[:, :6] for name in "ab")
        ]
        assert judgement.check() == pytest.approx(np.mean(off), rel=1e-5)


def fitted(options: dict[str, Any], samples: Samples | None = None, **given: Any) -> blemish.Inspector:
    return blemish.fit(samples or products(COUNTS), method="ltad", size=SIDE, options=options, **given)


def weights(options: dict[str, Any], samples: Samples | None = None, **given: Any) -> dict[str, Tensor]:
    """What is learned, without a graph of it."""
    samples = samples or products(COUNTS)
    method = create("ltad", options=options)
    assert isinstance(method, LTAD)
    return method.weights(method.fit(samples, run_for(samples, **given)))


@pytest.mark.parametrize("options", [QUICK, LEARNED], ids=["closed form", "learned"])
def test_one_seed_one_model(options: dict[str, Any], small: dict[str, str]) -> None:
    first, again = (fitted(options, **small) for _ in range(2))
    assert first.archive.graph == again.archive.graph
    assert first.archive.weights == again.archive.weights
    assert fitted(options, seed=1, **small).archive.graph != first.archive.graph


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_of": "rm", "tower": "frozen"},
        {"score_of": "sad", "names": "given"},
        {"score_of": "sad", "semantic": "learned", "names": "object"},
        {"fusion": "harmonic", "semantic": "learned", "sad_level": "image", "sad_hidden": 0},
        {"oversample": True, "rec_score": "l2", "kept": 0, "kappa": 0.5, "standardised": False},
        {"groups": 0},
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_every_setting_gives_a_model(options: dict[str, Any], several: bool, small: dict[str, str]) -> None:
    samples = products({"a": 6, "b": 3} if several else {"": 6})
    model = fitted({**QUICK, **options}, samples, **small)
    grouped = options.get("semantic") != "learned" and options.get("score_of") != "rm"
    assert model.manifest["parity"]["score"] <= (1e-3 if grouped else 1e-4)
    raw = model.raw(samples[0].read())
    assert (raw.classes is not None) == several
    assert (model.graph.takes > 0) == (several and options.get("score_of") != "rm")
    result = model.inspect(samples[0].read(), klass="a" if several else None)
    assert np.isfinite(result.score)
    assert result.map.shape == (SIDE, SIDE)
    facts = model.manifest["facts"]
    assert facts["tier_in_words"] == "tier 2: LTAD-style, text-free (adaptation)"
    assert facts["expected_seconds"] >= 0


def test_a_class_is_taken_as_given_or_else_found_out(small: dict[str, str]) -> None:
    samples = products({"a": 30, "b": 26, "c": 2})
    model = fitted({**LEARNED, "name_updates": 40}, samples, **small)
    assert model.calibration.how == "held-out"
    picture = samples[0].read()
    found, given, other = (model.inspect(picture, klass=klass) for klass in (None, "a", "b"))
    assert found.klass == "a"
    assert found.score == pytest.approx(given.score, rel=0.05)
    assert other.score != pytest.approx(given.score, rel=1e-4)
    for klass in "abc":
        told = [model.inspect(sample.read()).klass for sample in samples.klass(klass)]
        assert {*told} <= {klass, None}, "never another"
        assert told.count(klass) > 0.9 * len(told)
    blind = fitted({**LEARNED, "name_updates": 40, "agnostic": True}, samples, **small)
    assert blind.graph.takes == 0
    assert blind.inspect(picture, klass="b").score == blind.inspect(picture).score


def test_what_looks_like_no_class_is_of_none(small: dict[str, str]) -> None:
    samples = products({"a": 30, "b": 26})
    model = fitted({**QUICK, "name_updates": 40}, samples, **small)
    strange = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8)[:, None, None], (1, SIDE, 3))
    usual, found = model.inspect(samples[0].read()), model.inspect(strange)
    assert usual.class_confidence is not None
    assert found.class_confidence is not None
    assert found.class_confidence < 0.5 * usual.class_confidence
    assert found.klass is None
    assert found.notes


def test_products_of_other_sizes_and_grey_beside_coloured_ones(small: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    grey, large = (rng.integers(0, 90, (6, *shape)).astype(np.uint8) for shape in ((40, 60, 1), (96, 64, 3)))
    samples = datasets([*pictures(6), *grey, *(large + 100)], [*"aaaaaabbbbbbcccccc"])
    model = fitted({**LEARNED, "name_updates": 20}, samples, **small)
    assert model.format.channels == 3
    for number, klass in ((0, "a"), (6, "b"), (12, "c")):
        found = model.inspect(samples[number].read())
        assert found.klass == klass
        assert found.map.shape == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["", "align"], ids=["no text", "align"])
@pytest.mark.parametrize("phase", [Naming, Judgement])
def test_a_killed_training_ends_as_an_undisturbed_one(
    phase: type[Naming] | type[Judgement],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: dict[str, str],
) -> None:
    monkeypatch.setattr(_training, "SAVE_EVERY", 0.0)
    options, samples = {**LEARNED, "updates": 5}, products({"a": 27, "b": 4})
    if kind:  # names are left to the checkpoint as what the text tower made of them
        (tmp_path / "models").mkdir()
        vlm = str(save_language(kind, tmp_path / "models"))
        options, small = {**SPOKEN, "semantic": "learned", "updates": 5, "vlm": vlm}, {}
    whole = weights(options, samples, **small)
    loss, passes = phase.loss, 0

    def dying(self: Any, network: Any, batch: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if passes > 6 + 2:  # six of the probe
            raise KeyboardInterrupt
        return loss(self, network, batch)

    monkeypatch.setattr(phase, "loss", dying)
    place = tmp_path / "parts.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        weights(options, samples, checkpoint=place, **small)
    monkeypatch.setattr(phase, "loss", loss)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["parts.checkpoint"]

    def never(self: Any, network: Any, batch: Any) -> Tensor:
        raise AssertionError("the first phase was done")

    named = Naming.loss
    if phase is Judgement:  # but for the probe
        monkeypatch.setattr(_training, "probe", lambda task, device: _training.Probe(0.0, 0.0, 0.0))
        monkeypatch.setattr(Naming, "loss", never)
    resumed = weights(options, samples, checkpoint=place, resume=True, **small)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    monkeypatch.setattr(Naming, "loss", named)
    with pytest.raises(UsageError, match=r"another fit \(different: .*gamma"):
        weights({**options, "gamma": 0.5}, samples, checkpoint=place, resume=True, **small)


def test_presets_and_what_cannot_work() -> None:
    paper = create("ltad", "paper").config
    assert isinstance(paper, Config)
    assert (paper.vlm, paper.name_updates, paper.name_batch) == ("kakaobrain/align-base", 3000, 64)
    assert (paper.semantic, paper.standardised, paper.width, paper.depth) == ("learned", True, 256, 4)
    assert (paper.sad_rate, paper.gamma, paper.counted) == (1e-3, 1.0, 1.0)
    assert paper.name_updates_for(1900) == 3000
    assert paper.name_updates_for(3629) == 5671, "a hundred passes over MVTec, of 64 images each"
    assert (Config().counted, Config(semantic="learned").counted, Config(kappa=3.0).counted) == (64, 1, 3)
    assert Config().name_updates_for(9999) == 150
    for changes, message in (
        ({"rho": 1.0}, "rho is 1.0: give a share from 0 to below 1"),
        ({"tokens": 2}, "a name has no tokens: leave --tokens out"),
        ({"kappa": 2.0, "score_of": "sad"}, "leave --kappa out, or --score-of"),
        ({"tokens": 0}, "tokens is 0: give at least 1"),
        ({"vae_width": 12}, "vae_width is 12: give a multiple of 8"),
        ({"batch": 0}, "batch is 0: give at least 1"),
        ({"sad_cell": 17}, "sad_cell is 17: give at most 16"),
        ({"fusion": "harmonic", "score_of": "sad"}, "asks both scores: leave --score-of out"),
        ({"fusion": "harmonic"}, "scores between 0 and 1: choose --semantic learned"),
        ({"sad_level": "image"}, "shown whole pictures: choose --semantic learned"),
        ({"kappa": -1.0}, "kappa is -1.0: give at least 0"),
        ({"vlm": "align", "taps": ("s8",)}, "no taps to choose: leave --taps out"),
        ({"vlm": "align", "sad_cell": 4}, "patches of its own: leave --sad-cell out"),
        ({"vlm": "align", "sad_hidden": 4}, "projection is linear: leave --sad-hidden out"),
        ({"vlm": "align", "tower": "frozen"}, "frozen anyway: leave --tower out"),
        ({"ensemble": True}, "no words are read: leave --ensemble out"),
    ):
        with pytest.raises(UsageError, match=message):
            create("ltad", options=changes)


def test_other_pictures(small: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    for channels, dtype in ((1, np.uint16), (5, np.uint8)):
        images = [rng.integers(0, 200, (SIDE, SIDE, channels)).astype(dtype) for _ in range(4)]
        model = blemish.fit(images, method="ltad", size=SIDE, options=QUICK, **small)
        assert np.isfinite(model.inspect(images[0]).score)
    flat = [np.full((40, 72, 3), 90, np.uint8)] * 4
    model = blemish.fit(flat, method="ltad", size=(40, 72), options=QUICK, **small)
    assert np.isfinite(model.inspect(flat[0]).score)


def test_it_says_what_goes_wrong_silently(small: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    samples = products(COUNTS)
    method, naming, judgement, run = ready(LEARNED, samples, say=said.append, **small)
    scorer = method.learned(naming, judgement, samples, run, {})
    assert not said
    assert set(method.facts()["real_by_made"]) == {*COUNTS}
    assert method.facts()["names_alike"] < 0.98

    scorer.judge.tables[0, 1] = scorer.judge.tables[0, 2]
    method.look_again(judgement, scorer.judge, run)
    assert said[0].startswith("The names of b and c are nearly the same (a cosine of 1.000): tell which one")
    monkeypatch.setattr("blemish.methods.ltad.SMOOTH", 0.01)
    method.look_again(judgement, scorer.judge, run)
    assert (
        "times as well as real pictures: it teaches too smooth a normal. A lower --rho than 0.5" in said[-1]
    )
