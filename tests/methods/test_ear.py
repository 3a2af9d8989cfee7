"""EAR: what is hidden, what learns, and what its settings do."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

import blemish
from blemish.methods import _training, create
from blemish.methods.ear import SIZES, Config, Inpainting
from blemish.model.inspector import Graph
from blemish.nets.runtime import export
from tests.methods.product import SIDE, datasets, fit, marked, pictures, run_for
from tests.nets.zoo import save_hub_model

QUICK: dict[str, Any] = {
    "updates": 4,
    "batch": 2,
    "width": 4,
    "check_every": 2,
    "off": 1,
    "compare": "msgms",  # a backbone in every graph would take most of the time
}


def stripes(count: int, side: int = 64) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    wave = 120 + 50 * np.sin(np.arange(side) / 3)
    shades = [wave[None, :, None] + rng.normal(0, 3, (side, side, 3)) for _ in range(count)]
    return [shade.clip(0, 255).astype(np.uint8) for shade in shades]


def scratched(picture: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    bad, rng = picture.copy(), np.random.default_rng(seed)
    start, end = rng.integers(8, 56, (2, 2)).tolist()
    cv2.line(bad, start, end, (250, 250, 250), 2)
    return bad


def prepared(options: dict[str, Any], images: Any = None, **given: Any) -> tuple[Any, Inpainting, Any]:
    samples = datasets(pictures(6) if images is None else images)
    run = run_for(samples, **given)
    method = create("ear", options=options)
    method.look(samples, run)
    return method, method.task(samples, run), run


def test_presets_and_variants() -> None:
    v1, later = Config(), Config(variant="mosaic")
    assert (v1.filling, v1.offs, v1.cells) == ("zero", (2, 1, 0), (16,))
    assert (later.filling, later.offs, later.cells) == ("mosaic", (0,), SIZES)
    assert [Config(hide=hide).offs for hide in ("random", "riad", "nothing")] == [(2, 1, 0), (0,), (0,)]
    assert (Config(off=3).offs, Config(variant="mosaic", cell=8).cells) == ((3,), (8,))
    assert Config(variant="mosaic", fill="mean", off=1).filling == "mean"
    assert [Config(off_in_training=count).offs for count in (1, 4)] == [(2, 1), (4,)]
    paper = create("ear", "paper").config
    assert (paper.width, paper.smooth, paper.batch, paper.levelled) == (64, 0.0, 16, False)
    assert paper.offs == (2,)
    for options in ({"variant": "mosaic"}, {"hide": "riad"}, {"hide": "nothing"}):
        assert create("ear", "paper", options).config.offs == (0,)


def test_one_update_changes_all_of_the_unet_and_nothing_of_the_attention() -> None:
    method, task, _ = prepared({**QUICK, "updates": 1, "check_every": 0})
    before = {name: value.clone() for name, value in task.network.named_parameters()}
    attention = {name: value.clone() for name, value in method.hiding.state_dict().items()}
    _training.train(task, task.run, {})
    after = dict(task.network.named_parameters())
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    assert attention
    assert all(torch.equal(value, attention[name]) for name, value in method.hiding.state_dict().items())


def test_all_skips_are_on_in_training_and_shallow_ones_off_in_inspection() -> None:
    method, task, run = prepared({**QUICK, "off": 2})
    assert [unet.switches for unet in task.network.unets] == [(True,) * 4]
    scorer = method.scorer(task, run)
    assert [unet.switches for unet in scorer.passes.filling.unets] == [(False, False, True, True)]
    _, fewer, _ = prepared({**QUICK, "off": 4, "off_in_training": 4})
    assert [unet.switches for unet in fewer.network.unets] == [(False,) * 4]


def test_members_begin_apart_and_learn_in_turns() -> None:
    _, task, run = prepared({**QUICK, "members": 2, "updates": 2, "check_every": 0})
    first, second = task.network.unets
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert task.updates == 4
    assert [task.draw(update, 0).member for update in (1, 2, 3, 4)] == [0, 1, 0, 1]
    before = [deepcopy(unet.state_dict()) for unet in (first, second)]
    task.updates = 1
    _training.train(task, run, {})
    changed = [
        [name for name, value in unet.state_dict().items() if not torch.equal(value, state[name])]
        for unet, state in zip((first, second), before, strict=True)
    ]
    assert changed[0]
    assert not changed[1]


@pytest.mark.parametrize("hide", ["attention", "riad"])
def test_pictures_are_compared_with_the_mean_of_what_the_members_rebuild(hide: str) -> None:
    options = {**QUICK, "members": 2, "compare": "msgms", "off": 0, "hide": hide}
    method, task, run = prepared(options)
    _training.train(task, run, {})
    pictures = task.draw(1, 0).pictures
    each = []
    with torch.no_grad():
        together, _, _ = method.scorer(task, run).passes(pictures)
        for unet in task.network.unets:
            method, one, run = prepared({**options, "members": 1})
            one.network.eval().unets[0].load_state_dict(unet.state_dict())
            each.append(method.scorer(one, run).passes(pictures)[0])
    assert len(together) == (1 if hide == "attention" else 4)
    for place, rebuilt in enumerate(together):
        own = torch.stack([member[place] for member in each])
        assert not torch.allclose(*own, rtol=1e-3)
        torch.testing.assert_close(rebuilt, own.mean(0), rtol=1e-4, atol=1e-6)


def test_masks_are_those_of_the_inspected_picture() -> None:
    method, task, _ = prepared({**QUICK, "flips": False, "light": 0.0, "batch": 6}, images=stripes(6, SIDE))
    batch = task.draw(1, 0)
    with torch.no_grad():
        asked = method.hiding(batch.pictures)
    assert asked.any()
    assert float((asked != batch.hidden).float().mean()) < 0.01  # a tie may fall to either side
    held = sum(mask.nbytes for mask in task.masks.values())
    assert held == 6 * SIDE**2 / 8


@pytest.mark.parametrize("hide", ["random", "riad", "nothing"])
def test_what_it_is_compared_with(hide: str) -> None:
    method, task, run = prepared({**QUICK, "hide": hide})
    batch = task.draw(1, 0)
    if hide == "riad":
        assert torch.equal(batch.hidden.sum(1), torch.ones(2, 1, SIDE, SIDE))
    elif hide == "nothing":
        assert not batch.hidden.any()
    else:
        assert float(batch.hidden.mean()) == pytest.approx(method.share, abs=0.12)
    assert float(task.loss(task.network, batch).detach()) > 0
    scorer = method.scorer(task, run)
    with torch.no_grad():
        first, again = (scorer(batch.pictures) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_pictures_and_masks_are_flipped_together() -> None:
    _, task, _ = prepared({**QUICK, "light": 0.0})
    _, plain, _ = prepared({**QUICK, "light": 0.0, "flips": False})
    ways = set()
    for number in range(12):
        (picture, mask), (whole, own) = task.example(number), plain.example(number)
        for axes in ((), (-2,), (-1,), (-2, -1)):
            if np.array_equal(picture, np.flip(whole, axes)):
                assert np.array_equal(mask, np.flip(own, axes))
                ways.add(axes)
    assert len(ways) == 4


def test_light_is_swayed_by_no_more_than_was_asked_for() -> None:
    images = [np.clip(picture, 60, 200) for picture in pictures(6)]  # so that nothing is cut off
    _, plain, _ = prepared({**QUICK, "flips": False, "light": 0.0}, images=images)
    _, swayed, _ = prepared({**QUICK, "flips": False, "light": 0.2}, images=images)
    gains = []
    for number in range(12):
        (picture, mask), (relit, same) = plain.example(number), swayed.example(number)
        assert relit.dtype == np.float32
        assert np.array_equal(mask, same)  # what is hidden is that of the picture as it is
        gains.append((relit.mean() / picture.mean(), relit.std() / picture.std()))
        np.testing.assert_array_equal(swayed.example(number)[0], relit)
    assert np.abs(np.array(gains) - 1).max() <= 0.2 + 1e-3
    assert (np.std(gains, 0) > 0.05).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remedy": "bn_recal"},
        {"remedy": "mean_skip", "mask_channel": True},
        {"variant": "mosaic", "saliency": "residual", "cell": 8},
        {"fill": "mean", "scales": 2, "rule": "otsu", "score": "top", "region": "mask+ring"},
        {"saliency": "gaussians", "reduction": 1},
        {"saliency": "features"},
        {"saliency": "mnist"},
        {"hide": "riad"},
        {"compare": "features"},
        {"compare": "features", "hide": "riad"},
        {"mask_aug": 1.0, "loss": "l2", "polarity": "dark", "smooth": 0.0},
    ],
)
def test_every_setting_exports(options: dict[str, Any]) -> None:
    method, task, run = prepared({**QUICK, **options})
    _training.train(task, run, {})
    learned = {name: value.clone() for name, value in task.network.state_dict().items()}
    scorer = method.scorer(task, run)
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, learned[name]), "a remedy is not what was learned"
    batch = run.pixels(datasets(pictures(3)))
    with torch.no_grad():
        score, heat, _ = scorer(torch.from_numpy(batch))
    shipped = Graph(export(scorer, 3, (SIDE, SIDE), method.outputs))(batch)
    np.testing.assert_allclose(shipped.scores, score.numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shipped.maps, heat.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "ways"),
    [
        ("mosaic", {f"0 off, {cells} px" for cells in SIZES}),
        ("v1", {f"{off} off, 16 px" for off in (0, 1, 2)}),
    ],
)
def test_cells_and_skips_are_chosen_on_painted_defects(variant: str, ways: set[str]) -> None:
    model = fit(
        pictures(12), method="ear", options={**QUICK, "variant": variant, "off": -1, "compare": "features"}
    )
    facts = model.manifest["facts"]
    apart = facts["apart"]
    assert set(apart) == ways
    assert apart[f"{facts['off']} off, {facts['cell']} px"] == max(apart.values())


@pytest.mark.slow
def test_scratches_score_above_clean_stripes() -> None:
    options = {"updates": 120, "batch": 8, "width": 8, "check_every": 0, "learning_rate": 3e-3}
    model = blemish.fit(stripes(30), method="ear", size=64, options=options)
    clean = [model.inspect(picture).score for picture in stripes(40)[30:]]
    bad = [model.inspect(scratched(picture, seed)).score for seed, picture in enumerate(stripes(40)[30:])]
    assert np.mean(np.array(bad)[:, None] > np.array(clean)) > 0.9


def test_losses_in_holes_fall() -> None:
    options = QUICK | {"updates": 60, "batch": 8, "width": 8, "check_every": 0, "learning_rate": 3e-3}
    _, task, run = prepared(options, images=stripes(12, SIDE))
    batch = task.draw(1, 0)

    def inside() -> float:
        task.network.train()
        with torch.no_grad():
            rebuilt = task.network(*batch)
        return task.objective.inside_and_outside(batch.pictures, rebuilt, batch.hidden[:, None])[0]

    before = inside()
    _training.train(task, run, {})
    assert inside() < before / 2


def test_likeness_is_in_deviations_of_what_is_seen_and_leads_the_pixels() -> None:
    method, task, run = prepared(QUICK | {"compare": "features", "likeness": 2.0})
    batch, likeness = task.draw(1, 0), task.likeness
    assert likeness is not None
    noise = torch.randn(batch.pictures.shape, generator=torch.Generator().manual_seed(0)) / 20
    rebuilt = (batch.pictures + noise).requires_grad_()
    assert float(likeness(batch.pictures, batch.pictures)) == 0
    found = likeness(batch.pictures, rebuilt)
    with torch.no_grad():
        pixels = torch.from_numpy(np.concatenate(list(run.batches(task.train))))
        own, other = (method.patches(each).flatten(0, 1) for each in (batch.pictures, rebuilt))
        spread = method.patches(pixels).flatten(0, 1).std(0)
        expected = ((own - other) / spread).square().mean()
    torch.testing.assert_close(found.detach(), expected, rtol=0.2, atol=0)  # of fewer pictures, and floored
    found.backward()
    assert rebuilt.grad is not None
    with torch.no_grad():
        nearer = likeness(batch.pictures, rebuilt - 1e-3 * rebuilt.grad / rebuilt.grad.abs().max())
    assert nearer < found
    assert all(value.grad is None for value in method.patches.parameters())


def test_likeness_counts_as_told() -> None:
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        _, task, _ = prepared(QUICK | {"compare": "features", "likeness": weight})
        batch = task.draw(1, 0)
        task.network.eval()
        with torch.no_grad():
            losses[weight] = float(task.loss(task.network, batch))
    assert losses[2.0] - losses[1.0] == pytest.approx(losses[1.0] - losses[0.0], rel=1e-4)
    assert losses[1.0] > losses[0.0] + 0.01
    assert prepared(QUICK)[1].likeness is None  # MSGMS has no use for it


def test_pictures_kept_aside_judge() -> None:
    _, task, _ = prepared(QUICK, images=pictures(20))
    assert len(task.aside) == 2
    assert {sample.name for sample in task.aside}.isdisjoint(sample.name for sample in task.train)
    task.network.eval()
    with torch.no_grad():
        assert task.check() == task.check() > 0


def test_a_killed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_training, "SAVE_EVERY", 0.0)
    options = {**QUICK, "updates": 6}
    images = pictures(26)  # enough to hold some out
    whole = fit(images, method="ear", options=options)
    loss, passes = Inpainting.loss, 0

    def dying(self: Inpainting, network: Any, batch: Any) -> Tensor:
        nonlocal passes
        if self.network.training:
            passes += 1
        if passes > 6 + 4:  # six of the probe
            raise KeyboardInterrupt
        return loss(self, network, batch)

    monkeypatch.setattr(Inpainting, "loss", dying)
    place = tmp_path / "parts.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(images, method="ear", options=options, checkpoint=place)
    monkeypatch.setattr(Inpainting, "loss", loss)
    resumed = fit(images, method="ear", options=options, checkpoint=place, resume=True)
    assert resumed.archive.graph == whole.archive.graph
    facts = resumed.manifest["facts"], whole.manifest["facts"]
    assert all(each["updates"] == 6 for each in facts)
    assert facts[0]["loss_hidden"] == facts[1]["loss_hidden"]


def test_what_is_saved_is_enough_to_go_on_training() -> None:
    """The scorer's U-Nets have no batch norms left, and kernels that no update fits."""
    model = fit(pictures(6), method="ear", options={**QUICK, "compare": "features"})
    saved = load(model.archive.weights)
    _, task, _ = prepared(QUICK)
    own = {name: value for name, value in saved.items() if name.startswith("network.")}
    task.network.load_state_dict({name.removeprefix("network."): value for name, value in own.items()})
    assert saved.keys() - own.keys() == {f"compare.{name}" for name in ("matrix", "bias", "rows")}


def test_the_file_tells_what_drew_attention_and_whose_weights_it_has() -> None:
    facts = fit(pictures(6), method="ear", options=QUICK).manifest["facts"]
    assert facts["saliency"] == {
        "by": "the attention for strokes",
        "data": "strokes",
        "licence": "Apache-2.0, drawn by blemish",
    }
    assert 0 < facts["loss_visible"] < 1
    facts = fit(pictures(6), method="ear", options=QUICK | {"saliency": "gaussians"}).manifest["facts"]
    assert facts["saliency"] == {"by": "a saliency that learned from nothing"}
    facts = fit(pictures(6), method="ear", options=QUICK | {"saliency": "features"}).manifest["facts"]
    assert facts["saliency"]["by"] == "what lite0 sees elsewhere than on average"
    assert facts["saliency"]["licence"].startswith("Apache-2.0")
    facts = fit(pictures(6), method="ear", options=QUICK | {"saliency": "mnist"}).manifest["facts"]
    assert facts["saliency"]["licence"] == "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0"


def test_a_vision_transformer_draws_attention(tmp_path: Path) -> None:
    vit = save_hub_model("vit", tmp_path)
    options = QUICK | {"variant": "mosaic", "cell": 8, "off": 0, "saliency": "vit", "vit": str(vit)}
    model = fit(pictures(6), method="ear", options=options)
    assert model.manifest["facts"]["saliency"]["by"].startswith("the attention of ")
    assert np.isfinite(model.inspect(marked(pictures(1)[0])).score)


def test_other_pictures() -> None:
    for channels, dtype in ((1, np.uint16), (4, np.uint8)):
        images = pictures(4, channels, dtype)
        model = fit(images, method="ear", options=QUICK)
        assert np.isfinite(model.inspect(marked(images[0])).score)
    flat = [np.full((40, 72, 3), 90, np.uint8)] * 4
    model = blemish.fit(flat, method="ear", size=(40, 72), options=QUICK | {"compare": "features"})
    assert model.manifest["facts"]["hidden"] == 0
    assert np.isfinite(model.inspect(flat[0]).score)


def test_never_more_than_half_is_hidden() -> None:
    method, task, _ = prepared({**QUICK, "rule": "top25", "dilation": 40})
    batch = task.draw(1, 0)
    assert 0.3 < float(batch.hidden.mean((1, 2)).max()) <= 0.5
    assert method.chosen["most_hidden"] <= 0.5


@pytest.mark.parametrize(("dilation", "capped"), [(0, False), (40, True)])
def test_more_to_hide_than_may_be_is_said_in_the_result(dilation: int, capped: bool) -> None:
    images = pictures(6)
    model = fit(images, method="ear", options=QUICK | {"rule": "top5", "dilation": dilation, "reduction": 1})
    sentence = "More than half of the picture is conspicuous: the most conspicuous half was hidden."
    assert model.inspect(images[0]).notes == ((sentence,) if capped else ())


def test_the_same_map_to_the_bit_in_every_process(tmp_path: Path) -> None:
    images = pictures(6)
    options = QUICK | {"compare": "features"}
    fit(images, method="ear", options=options).save(tmp_path / "parts.blemish")
    cv2.imwrite(str(tmp_path / "bad.png"), marked(images[0]))
    script = (
        "import sys, hashlib, blemish; result = blemish.load(sys.argv[1]).inspect(sys.argv[2]);"
        "print(hashlib.sha256(result.map.tobytes()).hexdigest(), result.score)"
    )
    command = [sys.executable, "-c", script, tmp_path / "parts.blemish", tmp_path / "bad.png"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first == second
