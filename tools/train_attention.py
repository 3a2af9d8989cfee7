"""Train the attention behind EAR's masks, and save what is needed of it.

    python tools/train_attention.py strokes --out src/blemish/nets/attention-strokes.safetensors
    python tools/train_attention.py mnist.npz --out src/blemish/nets/attention-mnist.safetensors

A classifier of 28×28 pictures learns to weigh places by an attention map (EAR, arXiv 2310.04010 v1). Kept
is the part up to the attention logits, 65 057 numbers, with its provenance in the metadata. Data is one of

* `strokes`: ten kinds of glyphs that blemish draws itself, 60 000 new ones in each epoch;
* an .npz file with x_train, y_train, x_test and y_test, as Keras gives MNIST, or with images and labels, of
  which the first 60 000 are for training and the others held out;
* a folder with MNIST's four IDX files, also gzipped.

The published training is `--epochs 100 --rate 1e-4`, its rate constant; ours falls to zero. With the defaults
an epoch takes one and a half minutes on one core, and the same command gives the same numbers on one machine.
"""

import argparse
import gzip
import shlex
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from blemish.errors import BlemishError, DataError, OutputError, UsageError
from blemish.nets import strokes
from blemish.nets.attention import CELL, Classifier, over_places
from blemish.nets.saliency import stretched

BATCH = 32
GLYPHS, HELD_GLYPHS = 60_000, 10_000
HELD_EPOCH = 2**31
"""Never trained on."""
MNIST = "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0"
IDX = {
    "training pictures": "train-images-idx3-ubyte",
    "training labels": "train-labels-idx1-ubyte",
    "held-out pictures": "t10k-images-idx3-ubyte",
    "held-out labels": "t10k-labels-idx1-ubyte",
}

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pictures (N, 28, 28) and their classes (N,)."""


@dataclass(frozen=True)
class Data:
    licence: str
    epoch: Callable[[int], Digits]
    held: Digits


def read(source: str, seed: int) -> Data:
    if source == "strokes":
        return Data(
            "Apache-2.0, drawn by blemish",
            lambda epoch: glyphs(seed, epoch, GLYPHS),
            glyphs(seed, HELD_EPOCH, HELD_GLYPHS),
        )
    path = Path(source)
    if not path.exists():
        raise UsageError(
            f"The data {source} does not exist: give mnist.npz, a folder with MNIST's four IDX files, or "
            "`strokes` to train on drawn glyphs."
        )
    train, held = folder_of_idx(path) if path.is_dir() else archive(path)
    for pictures, labels in (train, held):
        fit = pictures.shape == (len(labels), strokes.SIDE, strokes.SIDE) and pictures.dtype == np.uint8
        if not fit or not len(labels) or labels.max() > 9:
            raise DataError(
                f"The data {source} has {pictures.dtype} pictures {pictures.shape} and labels "
                f"{labels.shape}: give 28×28 pictures of 8 bit with a label from 0 to 9 each, for training "
                "and held out."
            )
    return Data(MNIST, lambda _: train, held)


def glyphs(seed: int, epoch: int, count: int) -> Digits:
    drawn = [strokes.draw(seed, epoch, index) for index in range(count)]
    return np.stack([picture for picture, _ in drawn]), np.array([kind for _, kind in drawn], np.uint8)


def archive(path: Path) -> tuple[Digits, Digits]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "images" in file:
                pictures = file["images"]
                labels = file["labels"][: len(pictures)]
                return (pictures[:60_000], labels[:60_000]), (pictures[60_000:], labels[60_000:])
            return (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError) as error:
        raise DataError(
            f"The file {path} can't be read as MNIST ({error}): give an .npz with x_train, y_train, x_test "
            "and y_test, or with images and labels."
        ) from error


def folder_of_idx(folder: Path) -> tuple[Digits, Digits]:
    found = {name: idx(folder, name) for name in IDX}
    pictures, labels, held_pictures, held_labels = found.values()
    return (pictures, labels), (held_pictures, held_labels)


def idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Under the names it goes by: as published, unpacked, and with a dot in the middle."""
    stems = (IDX[name], IDX[name].replace("-idx", ".idx"))
    paths = [folder / f"{stem}{end}" for stem in stems for end in ("", ".gz")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UsageError(
            f"The folder {folder} lacks MNIST's {name}: put {IDX[name]}, or the same .gz, there."
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = int.from_bytes(content[:2], "big"), content[2], content[3]
        shape = np.frombuffer(content, ">u4", axes, 4)
        if zero or kind != 8:
            raise ValueError("it holds no bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise DataError(f"The IDX file {path} is damaged ({error}): fetch it again.") from error


def batch(digits: Digits, numbers: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = digits
    light = torch.from_numpy(pictures[numbers]).float()[:, None] / 255
    return stretched(light), torch.from_numpy(labels[numbers]).long()


def train(data: Data, *, epochs: int, rate: float, seed: int) -> Classifier:
    torch.manual_seed(seed)
    network = Classifier()
    for weight in network.parameters():
        # As Keras begins. With torch's own weights the first epoch is lost, and with He's the attention may
        # settle beside the strokes, which tell as much there.
        if weight.ndim > 1:
            torch.nn.init.xavier_uniform_(weight)
        else:
            torch.nn.init.zeros_(weight)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for epoch in range(epochs):
        digits = data.epoch(epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(digits[1]))
        losses = []
        for start in range(0, len(order), BATCH):
            done = (epoch + start / len(order)) / epochs
            optimiser.param_groups[0]["lr"] = rate * (1 - done)
            pictures, labels = batch(digits, order[start : start + BATCH])
            loss = F.cross_entropy(network(pictures), labels)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}, "
            f"held-out accuracy {accuracy(network, data.held):.2%}, "
            f"attention on strokes {on_strokes(network, data.held):.2f}",
            flush=True,
        )
    return network.eval()


@torch.no_grad()
def accuracy(network: Classifier, digits: Digits) -> float:
    right = 0
    for numbers in np.array_split(np.arange(len(digits[1])), -(-len(digits[1]) // 500)):
        pictures, labels = batch(digits, numbers)
        right += int((network(pictures).argmax(1) == labels).sum())
    return right / len(digits[1])


@torch.no_grad()
def on_strokes(network: Classifier, digits: Digits) -> float:
    """How much of the attention is on cells with ink, over what it would be were it even."""
    pictures, _ = batch(digits, np.arange(min(len(digits[1]), 1000)))
    inked = (F.max_pool2d(pictures, CELL) > 0.5).float()
    attention = over_places(network.trunk(pictures)[1])
    return float((attention * inked).sum((1, 2, 3)).mean() / inked.mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="`strokes`, an .npz file or a folder of IDX files")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the first step")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        if given.epochs < 1:
            raise UsageError(f"--epochs is {given.epochs}: give at least 1.")
        if not given.out.parent.is_dir():
            raise OutputError(f"The folder {given.out.parent} does not exist: make it, or choose another.")
        if given.out.suffix != ".safetensors":
            raise OutputError(f"{given.out} is no name for weights: let it end in .safetensors.")
        data = read(given.data, given.seed)
        network = train(data, epochs=given.epochs, rate=given.rate, seed=given.seed)
        held = accuracy(network, data.held)
        name = Path(given.data).name
        command = ["python", "tools/train_attention.py", name, "--out", given.out.name]
        command += ["--epochs", str(given.epochs), "--rate", str(given.rate), "--seed", str(given.seed)]
        told = {
            "data": name,
            "licence": data.licence,
            "epochs": str(given.epochs),
            "seed": str(given.seed),
            "held_out_accuracy": f"{held:.4f}",
            "held_out_pictures": str(len(data.held[1])),
            "attention_on_strokes": f"{on_strokes(network, data.held):.2f}",
            "date": datetime.now(UTC).date().isoformat(),
            "command": shlex.join(command),
        }
        save_file(network.trunk.state_dict(), given.out, told)
    except BlemishError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{given.out}: held-out accuracy {held:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
