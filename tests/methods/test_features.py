"""What is kept of a frozen network, and when it is found anew."""

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blemish.data import Samples
from blemish.errors import DataError, OutputError
from blemish.methods import Run
from blemish.methods._features import Features, features
from blemish.nets.distillation import Moments
from tests.methods.product import SIDE, datasets, pictures, run_for

SHAPE = (5, 12, 12)


def network(seed: int = 0, stride: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Conv2d(3, 5, 4, stride).requires_grad_(False)


def watched(samples: Samples, **changes: Any) -> tuple[Run, list[int]]:
    """With how many pictures were looked at, each time."""
    looked: list[int] = []

    def progress(items: Any, label: str, total: int) -> Any:
        assert label == "features"
        looked.append(4 * (total - 1) + 1)
        return items

    return run_for(samples, progress=progress, **changes), looked


def expected(samples: Samples, run: Run, net: nn.Module) -> torch.Tensor:
    return net(torch.from_numpy(run.pixels(samples))).half()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("memory_mb", [512, 1e-6])
@pytest.mark.parametrize("cached", [False, True])
def test_the_maps_are_those_of_the_network_wherever_they_are_kept(
    cached: bool, memory_mb: float, tmp_path: Path
) -> None:
    samples = datasets(pictures(6))
    run, looked = watched(samples, memory_mb=memory_mb, cache=tmp_path if cached else None)
    found = features(network(), samples, run)
    assert found.shape == SHAPE
    some = samples.with_items(samples[n] for n in (4, 0, 4))
    batch = found.batch(some)
    assert batch.dtype == torch.float16
    torch.testing.assert_close(batch, expected(some, run, network()), rtol=1e-3, atol=1e-3)
    assert not torch.equal(batch[0], batch[1])
    one = found.moments(samples[:2])
    two = Moments.of([x] for x in found.batch(samples[:2]).float())[0]
    assert all(torch.equal(*each) for each in zip(one, two, strict=True))
    held = isinstance(found.read("0"), np.memmap)
    assert held == (cached or memory_mb < 1)
    assert deepcopy(found) is found
    assert len(looked) == 1
    assert len(files(tmp_path)) == 6 * cached


def test_a_second_fit_finds_what_the_first_one_left(tmp_path: Path) -> None:
    images = pictures(9)
    first, again = datasets(images[:8]), datasets(images[:0:-1])  # other names, and one picture more
    run, looked = watched(first, cache=tmp_path)
    told: list[str] = []
    run = replace(run, say=told.append)
    one = features(network(), first, run)
    assert features(network(), first, run).batch(first).equal(one.batch(first))
    assert len(looked) == 1
    two = features(network(), again, run)
    assert looked == [5, 1]
    assert torch.equal(two.batch(again)[1:], one.batch(first).flip(0)[:-1])
    assert told == [
        "The cache has the features of 0 of 8 images.",
        "The cache has the features of 8 of 8 images.",
        "The cache has the features of 7 of 8 images.",
    ]
    assert len(files(tmp_path)) == 9


Change = Callable[[Samples, Run], tuple[Samples, Run, nn.Module]]


def dotted(samples: Samples, run: Run) -> tuple[Samples, Run, nn.Module]:
    image = samples[0].read().copy()
    image[0, 0, 0] += 1
    return datasets([image, *(sample.read() for sample in samples[1:])]), run, network()


CHANGES: dict[str, tuple[Change, int]] = {
    "weights": (lambda samples, run: (samples, run, network(seed=1)), 6),
    "architecture": (lambda samples, run: (samples, run, network(stride=5)), 6),
    "size": (lambda samples, run: (samples, replace(run, size=(40, SIDE)), network()), 6),
    "black": (
        lambda samples, run: (samples, replace(run, format=replace(run.format, black=9)), network()),
        6,
    ),
    "picture": (dotted, 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_found_anew(name: str, tmp_path: Path) -> None:
    change, absent = CHANGES[name]
    samples = datasets(pictures(6))
    run, looked = watched(samples, cache=tmp_path)
    features(network(), samples, run)
    samples, run, net = change(samples, run)
    found = features(net, samples, run)
    assert looked == [5, absent if absent == 1 else 5]
    assert len(files(tmp_path)) == 6 + absent
    torch.testing.assert_close(found.batch(samples), expected(samples, run, net), rtol=1e-3, atol=1e-3)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "one bit": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"00"),
    "another's": lambda path: path.write_text("notes"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_written_anew(name: str, tmp_path: Path) -> None:
    samples = datasets(pictures(6))
    run, looked = watched(samples, cache=tmp_path)
    one = features(network(), samples, run).batch(samples)
    damaged = files(tmp_path)[2]
    whole = damaged.read_bytes()
    DAMAGE[name](damaged)
    assert torch.equal(features(network(), samples, run).batch(samples), one)
    assert looked == [5, 1]
    assert damaged.read_bytes() == whole


def test_a_kill_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = datasets(pictures(6))
    run, looked = watched(samples, cache=tmp_path)
    replaced, count = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        features(network(), samples, run)
    monkeypatch.setattr(Path, "replace", replaced)
    assert len(files(tmp_path)) == 3
    features(network(), samples, run)
    assert looked == [5, 1]
    assert len(files(tmp_path)) == 6


WRITER = """
import sys
from pathlib import Path
from tests.methods.product import datasets, pictures, run_for
from tests.methods.test_features import network
from blemish.methods._features import features
samples = datasets(pictures(6))
found = features(network(), samples, run_for(samples, cache=Path(sys.argv[1])))
print(found.batch(samples).float().sum().item())
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [json.loads(process.communicate()[0]) for process in both]
    samples = datasets(pictures(6))
    run, looked = watched(samples, cache=tmp_path)
    found = features(network(), samples, run)
    assert looked == []  # the key is the same in every process
    assert sums == [found.batch(samples).float().sum().item()] * 2
    assert len(files(tmp_path)) == 6


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = datasets(pictures(6))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"takes no features \(.*\): make room, choose another"):
        features(network(), samples, run_for(samples, cache=tmp_path / "file"))

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"takes no features \(No space left on device\)"):
        features(network(), samples, run_for(samples, cache=tmp_path))


def test_a_cache_that_is_emptied_under_a_fit_is_told(tmp_path: Path) -> None:
    samples = datasets(pictures(3))
    found: Features = features(network(), samples, run_for(samples, cache=tmp_path))
    for path in files(tmp_path):
        path.unlink()
    with pytest.raises(OutputError, match="was changed while it was in use"):
        found.batch(samples)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_what_16_bits_cannot_hold_is_refused(value: float, cached: bool, tmp_path: Path) -> None:
    net, samples = network(), datasets(pictures(3))
    net.bias[2] = value
    with pytest.raises(DataError, match="no numbers or beyond 16 bits"):
        features(net, samples, run_for(samples, cache=tmp_path if cached else None))
    assert not files(tmp_path)
