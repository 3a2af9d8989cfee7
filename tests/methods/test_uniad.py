"""UniAD: what is learned from what, what its settings do, and one model of several products."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blemish
from blemish.data import Samples
from blemish.errors import UsageError
from blemish.methods import _training, create
from blemish.methods.uniad import Config, Rebuilding, spared
from blemish.model.inspector import Graph
from blemish.nets.runtime import export
from blemish.nets.uniad import jitter, reconstruction_error
from tests.methods.product import SIDE, datasets, fit, marked, pictures, run_for

TINY: dict[str, Any] = {"kept": 12, "width": 8, "heads": 2, "depth": 1, "hidden": 8}
QUICK: dict[str, Any] = {**TINY, "updates": 4, "batch": 2, "check_every": 0}


def shifted(count: int, by: int) -> list[Any]:
    """Pictures of another product."""
    return [np.roll(picture, (0, by), (2, 1))[..., ::-1] + np.uint8(by) for picture in pictures(count)]


def products(counts: dict[str, int]) -> Samples:
    several = [
        datasets(shifted(count, 17 * place) if place else pictures(count), [name])
        for place, (name, count) in enumerate(counts.items())
    ]
    each = [replace(sample, name=f"{sample.klass}{sample.name}") for some in several for sample in some]
    return several[0].with_items(each)


Prepared = Callable[..., tuple[Any, Rebuilding, Any]]


@pytest.fixture
def prepared(small: dict[str, str]) -> Prepared:
    def prepare(options: dict[str, Any], samples: Samples | None = None) -> tuple[Any, Rebuilding, Any]:
        samples = datasets(pictures(6)) if samples is None else samples
        run = run_for(samples, **small)
        method = create("uniad", options=options)
        method.look(samples, run)
        return method, method.task(samples, run), run

    return prepare


def test_the_paper_preset_is_the_published_one(prepared: Prepared) -> None:
    config = create("uniad", "paper").config
    assert (config.width, config.heads, config.depth, config.hidden) == (256, 8, 4, 1024)
    assert (config.dropout, config.neighbours, config.kept, config.standardised) == (0.1, 7, 0, False)
    assert (config.rec_score, config.window, config.check_every, config.clip) == ("l2", 16, 0, 0.1)
    assert config.whiten == 0
    assert config.jitter == pytest.approx(20 / sqrt(272), abs=3e-3)
    assert config.updates_for(3629) == 453_625  # a thousand passes, eight images at a time
    _, task, _ = prepared({**QUICK, "schedule": "drop", "learning_rate": 1e-4, "updates": 1000})
    rates = [task.rate(update) for update in (1, 800, 801, 1000)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    optimiser = task.optimiser()
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (optimiser.defaults["betas"], optimiser.defaults["weight_decay"]) == ((0.9, 0.999), 1e-4)


def test_updates_are_bounded_by_passes_over_the_images() -> None:
    assert [Config(updates=400, batch=32).updates_for(count) for count in (2, 10, 1200)] == [63, 313, 400]
    assert Config(updates=0, epochs=10, batch=4).updates_for(9) == 23


def test_one_update_changes_all_of_the_transformer_and_nothing_else(prepared: Prepared) -> None:
    samples = products({"a": 4, "b": 3})
    method, task, run = prepared({**QUICK, "updates": 1}, samples)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    stacked = {name: value.clone() for name, value in method.stacked.state_dict().items()}
    _training.train(task, run, {})
    after = task.network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    learning = {f"net.{name}" for name, _ in task.network.net.named_parameters()}
    assert changed == learning
    assert {name.partition(".")[0] for name in before} == {"seen", "net", "likeness"}
    assert all(torch.equal(value, stacked[name]) for name, value in method.stacked.state_dict().items())


def test_every_image_is_drawn_equally_often_or_every_product(prepared: Prepared) -> None:
    samples = products({"a": 9, "b": 2, "c": 1})
    _, task, _ = prepared({**QUICK, "batch": 4}, samples)
    passes = [[task.drawn(number).name for number in range(12 * turn, 12 * turn + 12)] for turn in range(2)]
    assert [sorted(names) for names in passes] == [sorted(sample.name for sample in samples)] * 2
    assert passes[0] != passes[1]
    _, task, _ = prepared({**QUICK, "sampler": "balanced"}, samples)
    drawn = [task.drawn(number) for number in range(1200)]
    shares = [np.mean([sample.klass == name for sample in drawn]) for name in "abc"]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)
    of_b = [sample.name for sample in drawn if sample.klass == "b"]
    assert np.mean([name == "b0" for name in of_b]) == pytest.approx(0.5, abs=0.1)


def test_what_is_learned_is_the_clean_map_from_a_noisy_one(prepared: Prepared) -> None:
    _, task, _ = prepared({**QUICK, "jitter": 0.7})
    batch = task.draw(3, 0)
    given: list[Tensor] = []

    def network(noisy: Tensor) -> Tensor:
        given.append(noisy)
        return torch.zeros_like(noisy)

    loss = task.loss(network, batch)  # type: ignore[arg-type]
    start = 2 * 2
    names = [task.drawn(number) for number in (start, start + 1)]
    clean = task.network.seen(task.found.batch(names).float())
    assert float(loss) == pytest.approx(float(clean.square().mean()))
    noise = jitter(clean, 0.7 * sqrt(12), generator=torch.Generator().manual_seed(batch.seed)) - clean
    torch.testing.assert_close(given[0], clean + noise)
    lengths = noise.norm(dim=1) / clean.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(0.7, rel=0.1)


def test_chance_is_that_of_seed_and_update_alone(prepared: Prepared) -> None:
    _, task, _ = prepared({**QUICK, "dropout": 0.5})
    task.phase(1)

    def loss(update: int) -> float:
        return float(task.loss(task.network, task.draw(update, 0)).detach())

    torch.manual_seed(1)
    one, other, state = loss(1), loss(2), torch.get_rng_state()
    torch.manual_seed(2)
    assert loss(1) == one != other
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    maps = task.draw(1, 0)
    assert maps.seed != task.draw(2, 0).seed
    assert float(task.loss(task.network, maps._replace(seed=5)).detach()) != one


def test_products_with_few_images_spare_none() -> None:
    samples = products({"a": 40, "b": 19, "c": 1})
    rest, aside = spared(samples, 0, wanted=True)
    assert [len(rest.klass(name)) for name in "abc"] == [36, 19, 1]
    assert [sample.klass for sample in aside] == ["a"] * 4
    assert {sample.name for sample in (*rest, *aside)} == {sample.name for sample in samples}
    assert spared(samples, 1, wanted=True)[1] != aside
    assert spared(samples, 0, wanted=False) == (samples, samples.with_items([]))


def test_good_images_kept_aside_judge_every_product_alike(prepared: Prepared) -> None:
    _, task, _ = prepared({**QUICK, "check_every": 2}, products({"a": 40, "b": 22, "c": 3}))
    assert [len(task.aside.klass(name)) for name in "ab"] == [4, 2]
    network = task.network.eval()

    def off(name: str) -> float:
        parts = network.seen(task.found.batch(task.aside.klass(name)).float())
        return float(F.mse_loss(network(parts), parts))

    with torch.no_grad():
        assert task.check() == pytest.approx((off("a") + off("b")) / 2, rel=1e-5)
        assert off("a") != pytest.approx(off("b"), rel=1e-3)
    _, task, _ = prepared({**QUICK, "check_every": 2})
    assert (task.check_every, len(task.aside)) == (0, 0)


def test_products_count_alike_however_many_images_they_have(prepared: Prepared) -> None:
    few = products({"a": 2, "b": 2})
    many = few.with_items([*few, *(replace(sample, name=f"{sample.name}+") for sample in few.klass("a"))])
    _, task, _ = prepared(QUICK, few)
    _, tailed, _ = prepared(QUICK, many)
    for (name, one), (_, other) in zip(
        task.network.state_dict().items(), tailed.network.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rec_score": "l2", "kept": 0, "neighbours": 1},
        {"rec_score": "cos", "kept": 0, "standardised": False, "whiten": 0.0, "window": 0},
        {"standardised": False, "kept": 999, "schedule": "drop", "clip": 0.0},
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_every_setting_exports(options: dict[str, Any], several: bool, prepared: Prepared) -> None:
    samples = products({"a": 4, "b": 3}) if several else datasets(pictures(6))
    method, task, run = prepared({**QUICK, **options}, samples)
    if not (options.get("kept", 12) or options.get("standardised", True)):
        assert isinstance(task.network.seen, nn.Identity)  # as published
    _training.train(task, run, {})
    scorer = method.scorer(task, run)
    batch = run.pixels(samples[:3])
    with torch.no_grad():
        told = scorer(torch.from_numpy(batch))
    assert len(told) == len(method.outputs) == 2 + several
    shipped = Graph(export(scorer, 3, (SIDE, SIDE), method.outputs))(batch)
    np.testing.assert_allclose(shipped.scores, told[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shipped.maps, told[1], rtol=1e-4, atol=1e-5)
    if several:
        assert shipped.classes is not None
        np.testing.assert_allclose(shipped.classes, told[2], rtol=1e-3, atol=1e-5)


def test_the_map_is_how_far_patches_are_from_what_was_rebuilt(prepared: Prepared) -> None:
    method, task, run = prepared(QUICK)
    scorer = method.scorer(task, run)
    pixels = torch.from_numpy(run.pixels(datasets(pictures(2))))
    with torch.no_grad():
        score, heat = scorer(pixels)
        parts = task.network.seen(method.stacked(pixels))
        error = reconstruction_error(parts, task.network(parts), "both")
    assert error.shape == (2, 3, 3)
    torch.testing.assert_close(heat[:, 8::16, 8::16], error, rtol=0.1, atol=0)  # of cells their middles
    side = round(16 * SIDE / 224)
    torch.testing.assert_close(score, F.avg_pool2d(heat, side, 1).amax((1, 2)))


def test_one_model_of_several_products_tells_them_apart(small: dict[str, str]) -> None:
    samples = products({"a": 30, "b": 26, "c": 2})
    model = blemish.fit(samples, method="uniad", size=SIDE, options=QUICK, **small)
    assert model.calibration.how == "held-out"
    assert set(model.calibrations.own) == {"a", "b"}
    for sample in samples:
        assert model.inspect(sample.read()).klass == sample.klass
    shares = model.raw(samples[0].read()).classes
    assert shares is not None
    assert shares.shape == (1, 3)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)


def test_few_images_of_several_products(small: dict[str, str]) -> None:
    """Each of five or more is left out once: they set the threshold."""
    samples = products({"a": 5, "b": 1, "c": 3})
    model = blemish.fit(samples, method="uniad", size=SIDE, options=QUICK, **small)
    assert model.calibration.how == "leave-one-out"
    assert len(model.calibration.scores) == 5
    assert model.manifest["calibration_counts"] == {"a": 5, "b": 0, "c": 0}
    assert model.inspect(samples[5].read(), klass="b").klass == "b"


def test_a_cache_changes_nothing_but_what_is_looked_at(tmp_path: Path, small: dict[str, str]) -> None:
    images, said = pictures(26), []
    plain = fit(images, method="uniad", options=QUICK, **small)
    for _ in range(2):
        cached = fit(images, method="uniad", options=QUICK, cache=tmp_path, say=said.append, **small)
        assert cached.archive.graph == plain.archive.graph
    counts = [line for line in said if line.startswith("The cache")]
    assert counts == [f"The cache has the features of {count} of 21 images." for count in (0, 21)]


def test_a_killed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, str]
) -> None:
    monkeypatch.setattr(_training, "SAVE_EVERY", 0.0)
    options = {**QUICK, "updates": 6, "check_every": 2}
    images = pictures(27)  # enough to hold some out, and to keep some aside of the rest
    whole = fit(images, method="uniad", options=options, **small)
    loss, passes = Rebuilding.loss, 0

    def dying(self: Rebuilding, network: Any, batch: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if passes > 6 + 4:  # six of the probe
            raise KeyboardInterrupt
        return loss(self, network, batch)

    monkeypatch.setattr(Rebuilding, "loss", dying)
    place = tmp_path / "parts.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(images, method="uniad", options=options, checkpoint=place, **small)
    monkeypatch.setattr(Rebuilding, "loss", loss)
    resumed = fit(images, method="uniad", options=options, checkpoint=place, resume=True, **small)
    assert resumed.archive.graph == whole.archive.graph
    with pytest.raises(UsageError, match=r"another fit \(different: pictures\)"):
        fit(images[1:], method="uniad", options=options, checkpoint=place, resume=True, **small)


@pytest.mark.slow
def test_what_does_not_belong_scores_higher_on_any_product(small: dict[str, str]) -> None:
    samples = products({"a": 12, "b": 12})
    options = {
        **TINY,
        "width": 32,
        "hidden": 64,
        "updates": 150,
        "batch": 8,
        "check_every": 0,
        "learning_rate": 2e-3,
    }
    model = blemish.fit(samples, method="uniad", size=SIDE, options=options, **small)
    assert model.manifest["facts"]["loss"] > 0
    for name in "ab":
        good = [sample.read() for sample in samples.klass(name)]
        clean = [model.inspect(picture).score for picture in good]
        bad = [model.inspect(marked(picture)).score for picture in good]
        assert min(bad) > max(clean)
        heat = model.inspect(marked(good[0])).map
        assert heat[16:32, 16:32].mean() > 1.5 * heat[:8].mean()


def test_other_pictures(small: dict[str, str]) -> None:
    for channels, dtype in ((1, np.uint16), (5, np.uint8)):
        images = pictures(4, channels, dtype)
        model = fit(images, method="uniad", options=QUICK, **small)
        assert np.isfinite(model.inspect(marked(images[0])).score)
    flat = [np.full((40, 72, 3), 90, np.uint8)] * 4
    model = blemish.fit(flat, method="uniad", size=(40, 72), options=QUICK, **small)
    assert np.isfinite(model.inspect(flat[0]).score)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch is 0: give at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0: give a share below 1"),
        ({"neighbours": 4}, "neighbours is 4: give an odd number"),
        ({"width": 10, "heads": 4}, "width is 10: give an even multiple of the 4 heads"),
        ({"taps": ("s9",)}, "no tap 's9'"),
    ],
)
def test_what_cannot_work_is_told(changes: dict[str, Any], message: str, small: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=message):
        fit(method="uniad", options={**QUICK, **changes}, **small)


def test_pictures_of_one_cell_are_refused(small: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="map of one cell"):
        blemish.fit(pictures(), method="uniad", size=16, options=QUICK, **small)


def test_a_training_that_diverges_says_so(small: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"diverged \(.*, update [23]\): choose a lower learning rate"):
        fit(method="uniad", options={**QUICK, "learning_rate": 1e30}, **small)
    with pytest.raises(UsageError, match="option learning_rate of uniad is nan: give a finite number"):
        fit(method="uniad", options={"learning_rate": float("nan")}, **small)
