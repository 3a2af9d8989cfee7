"""The training loop on a network of a few parameters."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish.data import Role, Sample, Samples
from blemish.errors import MissingExtraError, OutputError, UsageError
from blemish.images import PixelFormat
from blemish.methods import Run
from blemish.methods._training import Checkpoint, Task, kept_aside, key, precision_of, probe, told, train

CPU = Run(size=(8, 8), format=PixelFormat.of([("a", np.zeros((8, 8, 3), np.uint8))]))
KEY = {"method": "fitting", "rate": 0.3, "taps": ("a", "b")}
STEEPEST = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}


class Killed(BaseException):
    """As sudden as a signal."""


class Fitting(Task):
    """Learn to repeat the first two of four numbers; from the third update on with the first layer."""

    label = "fitting"
    network: nn.Sequential

    def __init__(
        self,
        *,
        updates: int = 5,
        forwards: int = 2,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        dies_after: float = float("inf"),
    ) -> None:
        self.updates, self.forwards, self.kind = updates, forwards, optimiser
        self.dies_after, self.passes = dies_after, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(4, 3), norm(3), nn.Tanh(), nn.Linear(3, 2))

    def optimiser(self) -> torch.optim.Optimizer:
        settings = STEEPEST if self.kind is torch.optim.SGD else {}
        return self.kind(self.network.parameters(), **settings)

    def rate(self, update: int) -> float:
        return 0.3 / update

    def phase(self, update: int) -> None:
        self.network[:2].requires_grad_(update > 2).train(update > 2)

    def draw(self, update: int, forward: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng([update, forward]).normal(size=(5, 4))).float()

    def loss(self, network: nn.Module, batch: Tensor) -> Tensor:
        if self.passes >= self.dies_after:
            raise Killed
        self.passes += 1
        return (network(batch) - batch[:, :2]).square().mean()


class AllAtOnce(Fitting):
    """The batches of three forward passes in one."""

    def draw(self, update: int, forward: int) -> Tensor:
        return torch.cat([super(AllAtOnce, self).draw(update, number) for number in range(3)])


class Kept(Fitting):
    """Checked after every second update; the third check is the best there will be."""

    check_every, patience = 2, 2

    def __init__(self, **given: Any) -> None:
        super().__init__(updates=40, **given)
        self.seen: dict[int, dict[str, Tensor]] = {}

    def check(self) -> float:
        assert not self.network.training
        state = {name: value.clone() for name, value in self.network.state_dict().items()}
        update = 2 * (len(self.seen) + 1 + self.before)
        self.seen[update] = state
        return abs(update - 6)

    before = 0


def by_hand(task: Fitting) -> list[float]:
    optimiser, losses = task.optimiser(), []
    for update in range(1, task.updates + 1):
        task.phase(update)
        optimiser.param_groups[0]["lr"] = task.rate(update)
        parts = [
            task.loss(task.network, task.draw(update, number)) / task.forwards
            for number in range(task.forwards)
        ]
        for part in parts:
            part.backward()
        if task.clip:
            nn.utils.clip_grad_norm_(task.network.parameters(), task.clip)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(sum(part.item() for part in parts))
    return losses


def assert_same(found: nn.Module, expected: nn.Module, tolerance: float = 0.0) -> None:
    theirs = expected.state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_updates_are_those_of_the_plain_loop(kind: type[torch.optim.Optimizer]) -> None:
    ours, plain = (Fitting(optimiser=kind) for _ in range(2))
    told: list[tuple[str, int]] = []

    def progress(items: Any, label: str, total: int) -> Any:
        told.append((label, total))
        return items

    assert train(ours, replace(CPU, progress=progress), KEY) == pytest.approx(by_hand(plain), rel=1e-6)
    assert_same(ours.network, plain.network)
    assert not any(part.training for part in ours.network.modules())
    assert told == [("fitting", 5)]


def test_long_gradients_are_shortened() -> None:
    free, ours, plain, loose = (Fitting() for _ in range(4))
    ours.clip = plain.clip = 0.05
    loose.clip = 1e6
    losses = train(free, CPU, KEY)
    assert train(ours, CPU, KEY) == pytest.approx(by_hand(plain), rel=1e-6)
    assert_same(ours.network, plain.network)
    assert train(loose, CPU, KEY) == losses
    with pytest.raises(AssertionError):
        assert_same(ours.network, free.network, 1e-3)


def test_gradients_of_forward_passes_make_up_one_update() -> None:
    three, one = Fitting(forwards=3, norm=nn.LayerNorm), AllAtOnce(forwards=1, norm=nn.LayerNorm)
    assert train(three, CPU, KEY) == pytest.approx(train(one, CPU, KEY), rel=1e-6)
    assert_same(three.network, one.network, 1e-6)


def test_the_best_weights_on_what_is_kept_aside_count_and_end_the_training() -> None:
    task = Kept()
    assert len(train(task, CPU, KEY)) == 10  # two checks after the best one
    assert list(task.seen) == [2, 4, 6, 8, 10]
    assert all(torch.equal(value, task.seen[6][name]) for name, value in task.network.state_dict().items())
    assert not torch.equal(task.seen[6]["0.weight"], task.seen[10]["0.weight"])


def test_the_best_weights_outlive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.methods._training.SAVE_EVERY", 0.0)
    whole = Kept()
    train(whole, CPU, KEY)
    killed = Kept(dies_after=2 * 8)  # in the ninth update
    run = replace(CPU, checkpoint=tmp_path / "run.checkpoint")
    with pytest.raises(Killed):
        train(killed, run, KEY)
    resumed = Kept()
    resumed.before = 4
    losses = train(resumed, replace(run, resume=True), KEY)
    assert [loss is None for loss in losses] == [True] * 8 + [False] * 2
    assert_same(resumed.network, whole.network)


def updates_in(path: Path) -> int:
    return Checkpoint(path, KEY).read()[0]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@settings(max_examples=12, deadline=None)
@given(deaths=st.lists(st.integers(0, 7), max_size=4))
def test_killed_anywhere_and_resumed_ends_as_if_undisturbed(
    kind: type[torch.optim.Optimizer], deaths: list[int]
) -> None:
    whole = Fitting(optimiser=kind)
    losses, done = train(whole, CPU, KEY), 0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.checkpoint"
        for passes in deaths:
            run = replace(CPU, checkpoint=path, resume=path.exists())
            task = Fitting(optimiser=kind, dies_after=passes)
            if done + passes // 2 >= 5:
                break
            with pytest.raises(Killed):
                train(task, run, KEY)
            done += (
                passes >= 2
            )  # a run leaves a checkpoint after its first whole update, and then every minute
            assert (updates_in(path) if path.exists() else 0) == done
        resumed = Fitting(optimiser=kind)
        rest = train(resumed, replace(CPU, checkpoint=path, resume=path.exists()), KEY)
        assert rest == [None] * done + losses[done:]
        assert told(rest)["updates"] == told(losses)["updates"] == 5
        assert_same(resumed.network, whole.network)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


@pytest.mark.slow
def test_processes_that_share_a_resumed_training_end_as_one(tmp_path: Path) -> None:
    def task(**changes: float) -> Fitting:  # two forward passes on the first process, one on the other
        return Fitting(forwards=3, norm=nn.LayerNorm, **changes)

    path = tmp_path / "run.checkpoint"
    whole = task()
    losses = train(whole, CPU, KEY)
    with pytest.raises(Killed):
        train(task(dies_after=5), replace(CPU, checkpoint=path), KEY)
    shared = task()
    rest = train(shared, replace(CPU, devices=2, checkpoint=path, resume=True), KEY)
    assert rest[0] is None
    assert rest[1:] == pytest.approx(losses[1:], rel=1e-5)
    assert_same(shared.network, whole.network, 1e-6)
    assert not shared.network.training
    assert updates_in(path) == 2


def test_half_precision_is_that_of_the_sums_and_not_of_the_weights() -> None:
    full, half = Fitting(), Fitting()
    train(full, CPU, KEY)
    train(half, replace(CPU, precision="bf16"), KEY)
    assert {value.dtype for value in half.network.parameters()} == {torch.float32}
    with pytest.raises(AssertionError):
        assert_same(half.network, full.network, 1e-5)
    assert_same(half.network, full.network, 0.1)


@pytest.mark.parametrize("has", [True, False])
def test_dense_networks_train_in_half_precision_on_cpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr("blemish.methods._training.cpu_has_bf16", lambda: has)
    dense = Fitting()
    dense.dense = True
    assert precision_of(CPU, dense) == ("bf16-mixed" if has else "32-true")
    assert precision_of(CPU, Fitting()) == "32-true"
    assert precision_of(replace(CPU, precision="fp32"), dense) == "32-true"
    assert precision_of(replace(CPU, preset="paper"), dense) == "32-true"


def test_a_cpu_with_a_number_is_the_cpu() -> None:
    plain, numbered = Fitting(), Fitting()
    train(plain, CPU, KEY)
    train(numbered, replace(CPU, device=torch.device("cpu:0")), KEY)
    assert_same(numbered.network, plain.network)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run.checkpoint"
    train(Fitting(), replace(CPU, checkpoint=path), KEY)
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def without_numbers(path: Path) -> None:
    save_file({"network.0.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("devices", [1, 2])  # with two it is this process too that refuses
@pytest.mark.parametrize(
    "spoil", [Path.unlink, truncate, without_numbers, lambda path: path.write_text("notes"), None]
)
def test_a_checkpoint_that_cannot_be_read(checkpoint: Path, spoil: Any, devices: int) -> None:
    if spoil is None:
        checkpoint = checkpoint.parent
    else:
        spoil(checkpoint)
    run = replace(CPU, checkpoint=checkpoint, resume=True, devices=devices)
    with pytest.raises(UsageError, match=rf"{checkpoint} cannot be read .*: fit again without --resume\.$"):
        train(Fitting(), run, KEY)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"rate": 0.2}, "rate"),
        ({"taps": ("a",), "method": "other"}, "method, taps"),
        ({"pictures": "new"}, "pictures"),
    ],
)
def test_a_checkpoint_of_another_fit(checkpoint: Path, change: dict[str, Any], names: str) -> None:
    run = replace(CPU, checkpoint=checkpoint, resume=True)
    with pytest.raises(
        UsageError, match=rf"belongs to another fit \(different: {names}\): repeat that fit's"
    ):
        train(Fitting(), run, {**KEY, **change})
    first, *others = train(Fitting(), run, KEY)  # which is as good as before
    assert first is None
    assert None not in others


@dataclass
class Settings:
    rate: float = 0.3
    attention: str = ""
    vlm: str = ""


def test_another_file_of_the_same_name_is_another_fit(tmp_path: Path) -> None:
    weights, tower = tmp_path / "a.pt", tmp_path / "tower"
    tower.mkdir()
    here = Settings(attention=str(weights), vlm=str(tower))

    def of(config: Settings) -> object:
        return key("fitting", config, b"", CPU)

    weights.write_text("1")
    first = of(here)
    assert of(here) == first
    weights.write_text("2")
    second = of(here)
    assert second != first
    (tower / "model.safetensors").write_text("1")
    assert of(here) != second
    assert of(Settings(vlm="someone/a-model")) == of(Settings(vlm="someone/a-model"))


def test_a_place_that_takes_no_checkpoint_is_told_after_one_update(tmp_path: Path) -> None:
    task = Fitting()
    (tmp_path / "folder").mkdir()
    for place in ("none/run.checkpoint", "folder"):
        with pytest.raises(OutputError, match=rf"{place} cannot be written .*: make room, or choose another"):
            train(task, replace(CPU, checkpoint=tmp_path / place), KEY)
    assert task.passes == 2 * task.forwards
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_more_devices_than_forward_passes() -> None:
    with pytest.raises(UsageError, match=r"3 devices are more than the 2 forward passes .* at most 2"):
        train(Fitting(), replace(CPU, devices=3), KEY)


def test_what_training_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"Training needs lightning-fabric: .*'blemish\[train\]'"):
        train(Fitting(), CPU, KEY)


def test_probing_counts_what_the_backward_pass_holds() -> None:
    """Beside a few weights: what the layers were given, and the difference that is squared."""

    class Wide(Fitting):
        def draw(self, update: int, forward: int) -> Tensor:
            return super().draw(update, forward).repeat(20_000, 1)

    found = probe(Wide(norm=nn.Identity), CPU)
    numbers = {"input": 4, "tanh": 3, "difference": 2}
    assert found.megabytes == pytest.approx(sum(numbers.values()) * 100_000 * 4 / 1e6, rel=0.01)
    assert found.seconds > 0


@pytest.mark.parametrize("seed", range(8))
def test_the_only_image_of_a_product_is_learnt_from(seed: int) -> None:
    products = ["b", "b", *(f"c{number % 5}" for number in range(10)), "d", "e", "f"]
    blank = np.zeros((2, 2, 3), np.uint8)
    items = [
        Sample(name=f"{number}", role=Role.TRAIN, bad=False, klass=klass, pixels=blank)
        for number, klass in enumerate(products)
    ]
    train = Samples("some", "arrays", tuple(items))
    for chosen in (train, train.with_items(items[-3:])):
        rest, aside = kept_aside(chosen, seed)
        assert sorted(sample.name for sample in (*rest, *aside)) == sorted(sample.name for sample in chosen)
        assert {*rest.classes} == {*chosen.classes}
        assert len(aside) == (2 if len(chosen) == 15 else 0)
