"""The tools beside the package, run as a user would."""

import gzip
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from blemish.errors import DataError, UsageError
from blemish.nets.attention import Attention
from blemish.nets.strokes import draw

TOOL = Path(__file__).parents[1] / "tools" / "train_attention.py"
NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("train_attention", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def digits(count: int, epoch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    drawn = [draw(0, epoch, index) for index in range(count)]
    return np.stack([picture for picture, _ in drawn]), np.array([kind for _, kind in drawn], np.uint8)


def idx(values: NDArray[np.uint8]) -> bytes:
    sides = b"".join(side.to_bytes(4, "big") for side in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sides + values.tobytes()


def write_idx(folder: Path, *, joint: str = "-", packed: bool = False) -> list[NDArray[np.uint8]]:
    values = [*digits(70, 0), *digits(30, 1)]
    for name, each in zip(NAMES, values, strict=True):
        stem = name.replace("-idx", f"{joint}idx")
        if packed:
            (folder / f"{stem}-ubyte.gz").write_bytes(gzip.compress(idx(each)))
        else:
            (folder / f"{stem}-ubyte").write_bytes(idx(each))
    return values


@pytest.mark.parametrize(("joint", "packed"), [("-", False), ("-", True), (".", False), (".", True)])
def test_idx_files_under_their_usual_names(
    tool: ModuleType, tmp_path: Path, joint: str, packed: bool
) -> None:
    values = write_idx(tmp_path, joint=joint, packed=packed)
    data = tool.read(str(tmp_path), 0)
    for found, expected in zip((*data.epoch(0), *data.held), values, strict=True):
        assert np.array_equal(found, expected)
    assert "CC BY-SA" in data.licence


def test_npz_files(tool: ModuleType, tmp_path: Path) -> None:
    pictures, labels = digits(60, 0)
    names = ("x_train", "y_train", "x_test", "y_test")
    keras = dict(zip(names, (pictures[:40], labels[:40], pictures[40:], labels[40:]), strict=True))
    np.savez(tmp_path / "keras.npz", **keras)  # type: ignore[arg-type]
    data = tool.read(str(tmp_path / "keras.npz"), 0)
    for found, expected in zip((*data.epoch(0), *data.held), keras.values(), strict=True):
        assert np.array_equal(found, expected)

    whole = np.zeros((60_005, 28, 28), np.uint8)
    whole[60_000:] = pictures[:5]
    kinds = np.arange(70_000) % 10  # more labels than pictures
    np.savez_compressed(tmp_path / "whole.npz", images=whole, labels=kinds.astype(np.uint8))
    data = tool.read(str(tmp_path / "whole.npz"), 0)
    assert len(data.epoch(0)[0]) == len(data.epoch(0)[1]) == 60_000
    assert np.array_equal(data.held[0], pictures[:5])
    assert np.array_equal(data.held[1], kinds[60_000:60_005])


def test_drawn_glyphs_are_new_in_each_epoch_and_held_out_ones_in_none(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "GLYPHS", 50)
    monkeypatch.setattr(tool, "HELD_GLYPHS", 20)
    data = tool.read("strokes", 5)
    sets = [{picture.tobytes() for picture in each[0]} for each in (data.epoch(0), data.epoch(1), data.held)]
    assert [len(each) for each in sets] == [50, 50, 20]
    assert len(set.union(*sets)) == 120
    assert np.array_equal(data.epoch(1)[0], data.epoch(1)[0])


def test_training_learns(tool: ModuleType) -> None:
    """After a moment it tells lines that it has not seen from dots, and looks at them."""
    sets = []
    for epoch in range(2):
        pictures, kinds = digits(800, epoch)
        chosen = np.isin(kinds, (0, 9))
        sets.append((pictures[chosen], kinds[chosen]))
    network = tool.train(tool.Data("", lambda _: sets[0], sets[1]), epochs=14, rate=3e-3, seed=0)
    assert tool.accuracy(network, sets[1]) > 0.9
    assert tool.on_strokes(network, sets[1]) > 2


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_whole_of_it(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        child = run(str(tmp_path), "--out", str(file), "--epochs", "2", "--seed", "3")
        assert child.returncode == 0, child.stderr
        assert "epoch 2 of 2: loss" in child.stdout
    states = [load_file(file) for file in files]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    told = Attention(files[0]).provenance
    assert told["command"] == (
        f"python tools/train_attention.py {tmp_path.name} --out a.safetensors "
        "--epochs 2 --rate 0.001 --seed 3"
    )
    assert told["held_out_pictures"] == "30"
    assert told["data"] == tmp_path.name
    assert f"{float(told['held_out_accuracy']):.2%}" in child.stdout
    assert sum(value.numel() for value in states[0].values()) == 65_057


def test_what_is_said_when_it_cannot_work(tool: ModuleType, tmp_path: Path) -> None:
    out = str(tmp_path / "w.safetensors")
    child = run(str(tmp_path / "mnist.npz"), "--out", out)
    assert child.returncode == 2
    assert child.stderr.startswith(f"The data {tmp_path / 'mnist.npz'} does not exist: give mnist.npz, ")
    assert tool.main(["strokes", "--out", str(tmp_path / "no" / "w.safetensors")]) == 2
    assert tool.main(["strokes", "--out", out, "--epochs", "0"]) == 2
    assert tool.main(["strokes", "--out", str(tmp_path / "weights.pt")]) == 2

    with pytest.raises(UsageError, match=r"lacks MNIST's training pictures: put train-images-idx3-ubyte"):
        tool.read(str(tmp_path), 0)
    write_idx(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    for damaged in (content[:-1], b"", b"\0\0\x0d" + content[3:]):
        labels.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged .*: fetch it again\."):
            tool.read(str(tmp_path), 0)
    labels.write_bytes(idx(np.arange(29, dtype=np.uint8) % 10))
    with pytest.raises(DataError, match=r"has uint8 pictures \(30, 28, 28\) and labels \(29,\)"):
        tool.read(str(tmp_path), 0)
    labels.unlink()
    labels.with_name(f"{labels.name}.gz").write_bytes(b"no gzip at all")
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged"):
        tool.read(str(tmp_path), 0)

    np.savez(tmp_path / "float.npz", images=np.zeros((4, 28, 28)), labels=np.zeros(4, np.uint8))
    with pytest.raises(DataError, match=r"has float64 pictures \(4, 28, 28\) .*: give 28×28 pictures of 8"):
        tool.read(str(tmp_path / "float.npz"), 0)
    for name in ("other.npz", "text.npz", "array.npy"):
        np.save(tmp_path / "array.npy", np.zeros((2, 28, 28), np.uint8))
        np.savez(tmp_path / "other.npz", x=np.zeros(3))
        (tmp_path / "text.npz").write_text("not one")
        with pytest.raises(DataError, match=rf"{name} can't be read as MNIST .*: give an \.npz with x_train"):
            tool.read(str(tmp_path / name), 0)
