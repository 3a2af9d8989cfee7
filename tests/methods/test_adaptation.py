"""REB's adaptation of the backbone, alone and as a part of fitting."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import blemish
from blemish.defects import MAKERS, Source, make
from blemish.errors import MaskError, UsageError
from blemish.images import PixelFormat, to_rgb8, write_png
from blemish.memory.patches import PatchVectors
from blemish.methods import Run, create
from blemish.methods._training import train
from blemish.methods.reb import ALPHAS, Adaptation, Config
from blemish.nets import load_backbone
from tests.methods.product import (
    PLAIN,
    SIDE,
    TRAINED,
    backbone_in,
    changed,
    datasets,
    fit,
    marked,
    pictures,
    run_for,
)
from tests.nets.zoo import ZOO

PAPER = create("reb", "paper").config


def adaptation(config: Config, source: Source | None = None, seed: int = 0) -> Adaptation:
    backbone = load_backbone()
    source = source or Source(np.stack(pictures(3)))
    return Adaptation(backbone, backbone.default_taps, source, config, seed)


def adapted(config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's weights and buffers before and after."""
    task = adaptation(config)
    before = {name: value.clone() for name, value in task.network.backbone.state_dict().items()}
    head = [value.clone() for value in task.network.head.parameters()]
    train(task, Run(size=(SIDE, SIDE), format=PixelFormat.of([("a", pictures(1)[0])])), {})
    assert not any(torch.equal(*pair) for pair in zip(head, task.network.head.parameters(), strict=True))
    return before, dict(task.network.backbone.state_dict())


def assert_changed(
    before: dict[str, Tensor], after: dict[str, Tensor], *, expected: Callable[[str], bool]
) -> None:
    found, learns = changed(before, after), {name for name in before if expected(name)}
    assert found <= learns
    # The gradient of a bias is 0 where a later batch norm takes off the mean; decay may be below rounding.
    assert all(name.endswith(".bias") for name in learns - found)
    assert len(found) > 0.8 * len(learns)


def test_learning_rates_are_the_papers() -> None:
    task = adaptation(PAPER)
    assert (task.updates, task.forwards) == (300, 3)
    for update, rate, digits in (
        (1, 0.03, 5e-7),
        (40, 0.02898, 5e-6),
        (150, 0.01728, 5e-6),
        (300, 6.58e-4, 5e-7),
    ):
        assert task.rate(update) == pytest.approx(rate, abs=digits)
    rates = [task.rate(update) for update in range(1, 301)]
    assert rates == sorted(rates, reverse=True)


def test_the_papers_preset_leaves_the_backbone_alone_for_39_updates() -> None:
    assert (PAPER.head_updates, PAPER.draws, PAPER.batch_norm, PAPER.early) == (39, 48, "train", "train")
    small = replace(PAPER, draws=1, forwards=1)
    assert not changed(*adapted(replace(small, updates=39)))
    assert_changed(*adapted(replace(small, updates=40)), expected=lambda name: True)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("early", ["frozen", "train", "deep"])
def test_what_is_frozen_keeps_every_bit(batch_norm: Any, early: Any) -> None:
    config = Config(updates=2, head_updates=1, draws=1, batch_norm=batch_norm, early=early)

    def learns(name: str) -> bool:
        before = ("stem", "stages.0", "stages.1")  # up to s4
        is_early = name.startswith((*before, "stages.2", "stages.3") if early == "deep" else before)
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        return (early == "train" or not is_early) and (batch_norm == "train" or not is_statistic)

    assert_changed(*adapted(config), expected=learns)


def test_every_good_picture_has_its_turn_before_any_has_another() -> None:
    levels = np.array([40, 80, 120, 160, 200], np.uint8)
    source = Source(np.broadcast_to(levels[:, None, None, None], (5, SIDE, SIDE, 3)).copy())

    def turns(seed: int) -> list[list[int]]:
        task = adaptation(Config(draws=2, forwards=3, updates=5), source, seed)
        seen: list[int] = []
        for update in range(1, 6):
            for forward in range(3):
                batch = task.draw(update, forward)
                assert batch.pictures.shape == (14, 3, SIDE, SIDE)
                assert batch.labels.tolist() == [*range(7), *range(7)]
                clean = batch.pictures[::7].float().mean((1, 2, 3)).numpy()
                seen += np.abs(clean[:, None] - levels).argmin(1).tolist()
        return [seen[start : start + 5] for start in range(0, 30, 5)]

    found = turns(0)
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in found)
    assert len({tuple(turn) for turn in found}) > 1
    assert found == turns(0) != turns(1)


def test_a_batch_is_what_defectmaker_makes() -> None:
    source = Source(np.stack(pictures(1)))
    config = Config(draws=2, forwards=1, updates=1, maker="cutpaste3", compat=True)
    batch = adaptation(config, source, 7).draw(3, 0)
    for place in range(2):
        draw = make(MAKERS["cutpaste3"], source, 0, seed=7, epoch=4 + place, compat=True)
        shown = batch.pictures[3 * place : 3 * place + 3].permute(0, 2, 3, 1)
        assert np.array_equal(shown, draw.views)
    assert adaptation(config).network.head[-1].out_features == 3


@pytest.mark.parametrize("kind", ["lite0", "hub resnet"])
def test_a_task_arrives_whole_in_another_process(kind: str, tmp_path: Path) -> None:
    backbone = ZOO[kind](tmp_path)[1]
    config = Config(updates=2, head_updates=1, draws=1)
    task = Adaptation(backbone, backbone.default_taps, Source(np.stack(pictures(2))), config, 0)
    arrived = pickle.loads(pickle.dumps(task))
    batches, losses = [], []
    for each in (task, arrived):
        each.phase(2)
        batches.append(each.draw(2, 0))
        losses.append(each.loss(each.network, batches[-1]))
    assert torch.equal(batches[0].pictures, batches[1].pictures)
    assert torch.equal(*losses)


def test_planning_changes_nothing_but_what_it_says() -> None:
    said: list[str] = []
    images = datasets(pictures())
    expected = []
    for updates in (0, 10**6):
        method = create("reb", options={**TRAINED, "updates": updates})
        method.patches = PatchVectors(load_backbone())
        before = {name: value.clone() for name, value in method.patches.state_dict().items()}
        expected.append(method.plan(images, run_for(images, say=said.append)))
        assert not changed(before, method.patches.state_dict())
        assert all(weight.grad is None for weight in method.patches.parameters())
    plain, long = expected
    assert long.vectors == plain.vectors
    assert long.seconds > 1000 + plain.seconds
    assert not said


@pytest.fixture(scope="module")
def undisturbed(small: dict[str, str]) -> blemish.Inspector:
    return fit(options=TRAINED, **small)


def test_the_adapted_network_is_in_the_file_and_is_the_one_that_inspects(
    undisturbed: blemish.Inspector, small: dict[str, str], tmp_path: Path
) -> None:
    assert changed(dict(load_backbone(small["backbone"]).state_dict()), backbone_in(undisturbed))
    assert undisturbed.manifest["facts"]["proxy_loss"] == pytest.approx(np.log(2), abs=0.1)  # as at random
    undisturbed.save(tmp_path / "model.blemish")
    save_file(backbone_in(blemish.load(tmp_path / "model.blemish")), tmp_path / "adapted.safetensors")
    again = fit(weights=tmp_path / "adapted.safetensors", options=PLAIN, **small)
    assert not backbone_in(again)
    bad = marked(pictures(1)[0])
    assert again.inspect(bad).score == pytest.approx(undisturbed.inspect(bad).score, rel=1e-4)
    assert fit(options=PLAIN, **small).inspect(bad).score != pytest.approx(
        undisturbed.inspect(bad).score, rel=1e-3
    )


def test_inspecting_costs_what_it_did_before_adaptation(
    undisturbed: blemish.Inspector, small: dict[str, str]
) -> None:
    graphs = [
        onnx.load_from_string(m.archive.graph).graph for m in (undisturbed, fit(options=PLAIN, **small))
    ]
    steps = [[(node.op_type, len(node.input)) for node in graph.node] for graph in graphs]
    assert steps[0] == steps[1]
    sizes = [sorted(tuple(value.dims) for value in graph.initializer) for graph in graphs]
    assert sizes[0] == sizes[1]


def test_same_seed_same_model_and_another_seed_another(
    undisturbed: blemish.Inspector, small: dict[str, str]
) -> None:
    again, other = fit(options=TRAINED, **small), fit(options=TRAINED, seed=1, **small)
    assert again.archive.graph == undisturbed.archive.graph
    assert again.archive.weights == undisturbed.archive.weights
    assert again.calibration == undisturbed.calibration
    assert changed(backbone_in(undisturbed), backbone_in(other))


class Killed(BaseException):
    pass


def dying(items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
    if label != "adapting":
        yield from items
        return
    yield from islice(items, 3)
    raise Killed


def test_a_killed_fit_resumed_is_the_undisturbed_one(
    undisturbed: blemish.Inspector, small: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "gear.checkpoint"
    given = {"options": TRAINED, "checkpoint": place, **small}
    for resume in (False, True):  # each leaves what it had after its first update
        with pytest.raises(Killed):
            fit(**given, resume=resume, progress=dying)
    resumed = fit(**given, resume=True)
    assert resumed.archive.graph == undisturbed.archive.graph
    assert resumed.archive.weights == undisturbed.archive.weights
    save_file(load_backbone(small["backbone"]).state_dict(), tmp_path / "own.safetensors")
    for change, names in (
        (
            {"options": {**TRAINED, "updates": 5, "learning_rate": 0.1}, "seed": 1},
            "updates, learning_rate, seed",
        ),
        ({"weights": tmp_path / "own.safetensors", "images": pictures(6)[1:]}, "weights, pictures"),
    ):
        with pytest.raises(UsageError, match=rf"another fit \(different: {names}\): repeat"):
            fit(**{**given, "resume": True, **change})


def test_what_cannot_be_trained_is_told(small: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        fit(options=TRAINED, resume=True, **small)
    with pytest.raises(UsageError, match=r"3 devices are more than the 1 forward passes"):
        fit(options=TRAINED, devices=3, **small)


def test_few_images_are_painted_on_more_than_once_and_this_is_said(small: dict[str, str]) -> None:
    said: list[str] = []
    model = fit(pictures(3), options={**TRAINED, "draws": 4}, say=said.append, **small)
    assert said[1:] == [
        "A forward pass paints on 4 images and there are 3, so it paints on some of them more than once."
    ]
    assert model.manifest["facts"]["proxy_loss"] > 0


def test_a_class_with_one_image(small: dict[str, str]) -> None:
    samples = datasets(pictures(5), ["nut", "nut", "nut", "nut", "bolt"])
    model = fit(samples, options=TRAINED, **small)
    assert model.manifest["classes"] == ["bolt", "nut"]
    assert len(model.calibration.scores) == 4, "without its only image nothing is known of the bolt"
    fewer = fit(samples, options=PLAIN, few_shot=1, **small)
    assert fewer.manifest["remembered"] == ["0", "4"]


@pytest.mark.parametrize("kind", ["lite0", "hub resnet", "hub vit", "resnet18 folded"])
@pytest.mark.parametrize("early", ["frozen", "train", "deep"])
def test_any_backbone_is_adapted_be_it_cut_or_not(kind: str, early: str, tmp_path: Path) -> None:
    name, backbone = ZOO[kind](tmp_path)
    weights = tmp_path / "weights.safetensors" if kind == "resnet18 folded" else None
    options = {**TRAINED, "updates": 2, "head_updates": 1, "early": early}
    model = fit(pictures(3), backbone=name, weights=weights, options=options)
    before, after = dict(backbone.state_dict()), backbone_in(model)
    assert set(before) == set(after)
    first, last = {
        "lite0": ("stem.", "stages.6."),
        "hub resnet": ("tower.embedder.", "tower.encoder.stages.3."),
        "hub vit": ("tower.embeddings.", "tower.layers.3."),
        "resnet18 folded": ("conv1.", "layer3.1."),
    }[kind]
    moved = changed(before, after)
    assert any(key.startswith(last) for key in moved)
    # What cannot be cut has no early part.
    assert any(key.startswith(first) for key in moved) == (early == "train" or name.startswith("hub:"))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_grey_and_many_channels_are_painted_on_too(channels: int, small: dict[str, str]) -> None:
    images = pictures(4, channels, np.uint16)
    model = fit(images, options={**TRAINED, "updates": 2, "alpha": "auto"}, **small)
    assert model.inspect(marked(images[0])).score > model.inspect(images[1]).score
    assert model.manifest["facts"]["alpha"] in ALPHAS


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_painted_on_a_likeness_comes_to_the_picture(channels: int, dtype: type) -> None:
    samples = datasets(pictures(2, channels, dtype))
    run = run_for(samples)
    before, painted = run.pixels(samples[:1]), run.source(samples).images[0].copy()
    assert np.array_equal(painted, to_rgb8(samples[0].read(), run.format))
    assert np.array_equal(run.repainted(samples[0], painted), before)
    painted[4, 5] += np.array([51, 102, 0], np.uint8)
    change = run.repainted(samples[0], painted) - before
    own = [0.2, 0.4, 0.0, 0.0][:channels] if channels in (3, 4) else [0.2] * channels
    np.testing.assert_allclose(change[0, :, 4, 5], own, atol=1e-6)
    change[0, :, 4, 5] = 0
    assert not change.any()


def test_the_foreground_is_the_users_own_if_there_is_one(tmp_path: Path, small: dict[str, str]) -> None:
    parts, masks = tmp_path / "good", tmp_path / "masks"
    for folder in (parts, masks):
        folder.mkdir()
    shown = np.zeros((SIDE, SIDE), np.uint8)
    shown[8:24, 16:40] = 255
    for number, image in enumerate(pictures(4)):
        write_png(parts / f"{number}.png", image)
        write_png(masks / f"{number}_mask.png", shown)
    given = {"options": {**TRAINED, "updates": 1, "head_updates": 0}, **small}
    own, everywhere = fit(parts, foreground=masks, **given), fit(parts, **given)
    assert changed(backbone_in(own), backbone_in(everywhere))
    samples = blemish.data.read(parts)
    run = run_for(samples, masks={sample.name: shown > 0 for sample in samples})
    assert np.array_equal(run.source(samples).foreground, np.broadcast_to(shown > 0, (4, SIDE, SIDE)))
    assert replace(run, masks=None).source(samples).foreground.all()  # noise: nothing stands out
    small = replace(run, size=(24, 24)).source(samples)
    assert np.array_equal(small.foreground[0], shown[::2, ::2] > 0)
    (masks / "2_mask.png").rename(masks / "two.png")
    with pytest.raises(MaskError, match=r"1 of 4 images have no foreground mask in .*masks \(2\.png\)"):
        fit(parts, foreground=masks, options=PLAIN)
