"""FractalAD: what learns from what, and what its settings do."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import blemish
from blemish.errors import DataError, UsageError
from blemish.methods import _training, create
from blemish.methods.fractalad import (
    Config,
    FractalAD,
    Segmenting,
    average_precision,
)
from blemish.nets.distillation import placed
from blemish.nets.sfnet import image_score, segmentation_loss
from tests.methods.product import SIDE, datasets, fit, marked, pictures, run_for

QUICK: dict[str, Any] = {"updates": 4, "batch": 2, "check_every": 2}
ALONE: dict[str, Any] = {"updates": 30, "batch": 2, "check_every": 0, "student": "off"}
"""Enough for batch norms to settle, without which outputs are wild and rounding shows."""
NETWORK = {**QUICK, "student": "network"}


def method_and_task(options: dict[str, Any], count: int = 6, **given: Any) -> tuple[FractalAD, Segmenting]:
    samples = datasets(pictures(count))
    run = run_for(samples, **given)
    method = create("fractalad", options=options)
    assert isinstance(method, FractalAD)
    return method, method.prepared(samples, run)


def test_the_paper_preset_is_the_published_schedule() -> None:
    config = create("fractalad", "paper").config
    assert (config.updates, config.batch, config.check_every) == (1200, 32, 0)
    assert (config.learning_rate, config.schedule) == (1e-3, "constant")
    assert (config.view, config.score, config.dilation, config.student) == ("ws", "mean", 3, "auto")


@pytest.mark.parametrize(("student", "decay"), [("network", 1e-3), ("off", 1e-2)])
def test_the_optimiser_is_that_of_the_code(student: str, decay: float) -> None:
    _, task = method_and_task({**QUICK, "student": student})
    optimiser = task.optimiser()
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.param_groups[0]["weight_decay"] == decay
    assert task.rate(1) == 1e-3 > task.rate(4) > 0


def gradients(task: Segmenting, part: str) -> Tensor:
    task.network.zero_grad()
    task.phase(1)
    batch = task.draw(1, 0)
    off, logits = task.network(batch.clean, batch.pasted, batch.of_clean, batch.of_pasted)
    (off if part == "student" else segmentation_loss(logits, batch.masks)).backward()
    return torch.tensor(0)


def test_the_student_learns_from_clean_pictures_and_the_head_from_anomalies() -> None:
    _, task = method_and_task(NETWORK)
    for taught, other in (("student", "head"), ("head", "student")):
        gradients(task, taught)
        own, others = (list(getattr(task.network, name).parameters()) for name in (taught, other))
        assert any(each.grad is not None and each.grad.abs().max() > 0 for each in own)
        assert all(each.grad is None or not each.grad.any() for each in others)
    assert all(each.grad is None for each in task.teacher.parameters())


def test_batch_norms_of_the_student_count_clean_pictures_then_anomalies() -> None:
    _, task = method_and_task(NETWORK)
    norm = next(part for part in task.network.student.modules() if isinstance(part, torch.nn.BatchNorm2d))
    task.phase(1)
    batch = task.draw(1, 0)
    task.network(batch.clean, batch.pasted, batch.of_clean, batch.of_pasted)
    assert int(norm.num_batches_tracked) == 2


def test_loss_of_perfect_and_of_empty_answers() -> None:
    masks = (torch.rand(3, 1, 8, 8) > 0.7).float()
    assert float(segmentation_loss(40 * masks - 20, masks)) < 1e-2
    assert float(segmentation_loss(torch.full((3, 1, 8, 8), -20.0), torch.zeros(3, 1, 8, 8))) < 1e-5
    wrong = float(segmentation_loss(20 - 40 * masks, masks))
    assert wrong > 15  # 20 of it are cross-entropy


def test_image_scores() -> None:
    logits = torch.full((2, 20, 20), -30.0)
    logits[0, :2, :2] = torch.tensor([[0.9, 0.8], [0.4, 0.1]]).logit()
    found = {kind: image_score(kind, logits)[0].item() for kind in ("mean", "max", "top1", "q995")}
    top = float(logits[0, :2, :2].mean())
    told = {"mean": 2.2 / 400, "max": 0.9, "q995": 0.8}
    assert found == pytest.approx({kind: math.log(p / (1 - p)) for kind, p in told.items()} | {"top1": top})


def test_draws_depend_on_nothing_but_their_numbers() -> None:
    batches = []
    for _ in range(2):
        _, task = method_and_task(NETWORK)
        task.draw(3, 0)
        batches.append(task.draw(2, 0))
    for one, two in zip(*batches, strict=True):
        for a, b in zip(*([x] if isinstance(x, Tensor) else x for x in (one, two)), strict=True):
            assert torch.equal(a, b)
    _, other = method_and_task(NETWORK, seed=1)
    assert not torch.equal(other.draw(2, 0).pasted, batches[0].pasted)


def test_without_a_student_anomalies_come_again_as_the_teacher_saw_them() -> None:
    _, task = method_and_task({**QUICK, "student": "off", "pool": 4})
    first = task.draw(1, 0), task.draw(2, 0)
    again = task.draw(3, 0), task.draw(4, 0)
    assert len(task.held) == 4
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.masks, two.masks)
        assert all(torch.equal(*pair) for pair in zip(one.of_pasted, two.of_pasted, strict=True))
    whole = method_and_task({**QUICK, "student": "off", "pool": 0})[1].draw(1, 0)
    for held, fresh in zip(first[0].of_pasted, whole.of_pasted, strict=True):
        torch.testing.assert_close(held, fresh, rtol=1e-3, atol=1e-3)  # held in half precision


def test_strangeness_counts_as_told_beside_the_head() -> None:
    options = {**ALONE, "updates": 4, "check_every": 2}
    method, task = method_and_task(options, count=12)
    scorer = method.scorer(task, task.run)
    good = torch.from_numpy(task.run.pixels(task.aside))
    with torch.no_grad():
        _, together = scorer(good)
        strange, scorer.pair.strange = scorer.pair.strange, None
        _, head = scorer(good)
    assert strange is not None
    assert [scorer.teacher.taps[stage] for stage in strange.stages] == list(
        scorer.teacher.backbone.default_taps
    )
    assert float((together - head).std()) == pytest.approx(2 * float(head.std()), rel=1e-3)
    assert abs(float((together - head).mean())) < 1e-3 * float(head.std())
    method, task = method_and_task({**options, "strangeness": 0.0}, count=12)
    assert method.scorer(task, task.run).pair.strange is None


def test_pictures_kept_aside_are_never_trained_on() -> None:
    _, task = method_and_task({**QUICK, "student": "codebook", "pool": 0}, count=12)
    kept = {sample.name for sample in task.aside}
    assert len(kept) == 1
    assert {sample.name for sample in task.train} | kept == {str(number) for number in range(12)}
    assert len(task.source) == 11
    task.network.eval()
    with torch.no_grad():
        first, again = task.check(), task.check()
    assert 0 < first == again <= 1


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=500), rng.random(500) < 0.1
    ours = average_precision(torch.from_numpy(scores), torch.from_numpy(truth))
    assert ours == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_it_learns_eight_samples_by_heart() -> None:
    alike = {"batch": 8, "pool": 8, "schedule": "constant", "learning_rate": 4e-3}
    _, task = method_and_task({**ALONE, "updates": 150, **alike})
    losses = _training.train(task, task.run, {})
    assert losses[0] > 1
    assert min(losses[-5:]) < 0.2


def test_the_student_comes_closer_to_the_teacher() -> None:
    _, task = method_and_task({"updates": 12, "batch": 4, "check_every": 0, "student": "network"})
    offs = []
    for update in range(1, 13):
        task.phase(update)
        batch = task.draw(update, 0)
        off, _ = task.network(batch.clean, batch.pasted, batch.of_clean, batch.of_pasted)
        offs.append(off.item())
        if update == 1:
            optimiser = task.optimiser()
        optimiser.zero_grad()
        off.backward()
        optimiser.step()
    assert offs[0] < 5
    assert offs[-1] < 0.8 * offs[0]


def test_place_explains_an_aligned_product_and_not_a_texture() -> None:
    torch.manual_seed(0)
    mean = torch.randn(5, 6, 7)
    aligned = [mean + 0.1 * torch.randn(5, 6, 7) for _ in range(20)]
    assert placed(aligned) > 0.95
    assert abs(placed([torch.randn(5, 6, 7) for _ in range(20)])) < 0.05


def test_a_killed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_training, "SAVE_EVERY", 0.0)
    options = {**NETWORK, "updates": 6}
    whole = fit(method="fractalad", options=options)
    loss, passes = Segmenting.loss, 0

    def dying(self: Segmenting, network: Any, batch: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if passes > 6 + 4:  # six of the probe
            raise KeyboardInterrupt
        return loss(self, network, batch)

    monkeypatch.setattr(Segmenting, "loss", dying)
    place = tmp_path / "parts.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(method="fractalad", options=options, checkpoint=place)
    monkeypatch.setattr(Segmenting, "loss", loss)
    resumed = fit(method="fractalad", options=options, checkpoint=place, resume=True)
    assert resumed.archive.graph == whole.archive.graph
    with pytest.raises(UsageError, match=r"another fit \(different: updates\)"):
        fit(method="fractalad", options=NETWORK, checkpoint=place, resume=True)


@pytest.mark.parametrize(
    ("options", "channels", "dtype"),
    [
        ({**ALONE, "student": "codebook"}, 1, np.uint16),
        ({**ALONE, "student": "codebook"}, 5, np.uint16),
        ({**ALONE, "student": "codebook", "view": "w"}, 4, np.uint8),
        (NETWORK, 5, np.uint16),
        (ALONE, 4, np.uint8),
    ],
)
def test_deep_and_many_channel_pictures(options: dict[str, Any], channels: int, dtype: Any) -> None:
    images = pictures(4, channels, dtype)
    model = fit(images, method="fractalad", options=options)
    assert np.isfinite(model.inspect(marked(images[0])).score)


def test_flat_pictures_still_get_anomalies() -> None:
    flat = [np.full((SIDE, SIDE, 3), 120, np.uint8) for _ in range(4)]
    _, task = method_and_task(QUICK)
    assert task.draw(1, 0).masks.any()
    model = fit(flat, method="fractalad", options=ALONE)
    assert np.isfinite(model.inspect(flat[0]).score)


def test_what_cannot_work_is_told() -> None:
    with pytest.raises(UsageError, match=r"learning_rate is -1\.0: give a number above 0"):
        create("fractalad", "fast", {"learning_rate": -1.0})
    with pytest.raises(UsageError, match="updates is 0: give at least 1"):
        Config(updates=0)
    with pytest.raises(UsageError, match=r"option student of fractalad cannot be 'maybe': it takes codebook"):
        create("fractalad", options={"student": "maybe"})
    with pytest.raises(DataError, match="1 usable good image"):
        fit(pictures(1), method="fractalad", options=QUICK)
    with pytest.raises(DataError, match="smaller than the smallest patch"):
        blemish.fit([np.zeros((2, 2, 3), np.uint8)] * 4, method="fractalad", size=2, options=QUICK)


def test_it_says_what_it_found_and_how_long_it_will_take() -> None:
    said: list[str] = []
    model = fit(method="fractalad", options={**ALONE, "student": "auto"}, say=said.append)
    facts = model.manifest["facts"]
    assert f"({facts['student_why']})" in said[0]
    assert "30 updates of 2, about" in said[0]
    assert facts["updates"] == 30
