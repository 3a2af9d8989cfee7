"""What a frozen network makes of each picture: found once, and kept in 16 bits for a training to draw from.

With a cache folder every picture's map is a file of its own, so that fits of other lists of the same pictures
find theirs. Its name is a hash of the picture as decoded; that of its folder one of the network with its
weights, taps and size, of the pixel format, and of what computes. Files are checked once and then mapped.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from hashlib import blake2b
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.errors import DataError, OutputError
from blemish.methods._contract import Run
from blemish.nets.distillation import Moments
from blemish.nets.runtime import export

SEAL = 16
"""Bytes in front of a file's map: the hash of the rest."""

Map = NDArray[np.float16]
Shape = tuple[int, ...]


class Features:
    """The map of each sample, by its name."""

    def __init__(self, shape: Shape, read: Callable[[str], Map]) -> None:
        self.shape, self.read = shape, read

    def __deepcopy__(self, memo: Any) -> "Features":
        return self  # nobody changes them, and they may be larger than the memory

    def batch(self, samples: Iterable[Sample]) -> Tensor:
        """(N, *shape), in 16 bits."""
        return torch.from_numpy(np.stack([self.read(sample.name) for sample in samples]))

    def moments(self, samples: Iterable[Sample]) -> Moments:
        return Moments.of([self.batch([sample])[0].float()] for sample in samples)[0]


def features(module: nn.Module, samples: Samples, run: Run, label: str = "features") -> Features:
    """What a module from a batch of pictures to one tensor makes of each sample.

    What the run's cache has is taken from it, and all else put into it. Without one they are held in memory,
    or in a temporary file where they are more than may be held.
    """
    with torch.no_grad():
        shape = tuple(module.cpu().eval()(torch.zeros(1, run.format.channels, *run.size)).shape[1:])
    if run.cache is None:
        held = room(len(samples), shape, run)
        rows = {sample.name: held[row] for row, sample in enumerate(samples)}
        for sample, each in computed(module, samples, run, label):
            rows[sample.name][:] = each
        return Features(shape, rows.__getitem__)
    cache = Cache(run.cache / network_key(module, run), shape)
    keys = {sample.name: picture_key(run.picture(sample)) for sample in samples}
    absent = samples.with_items(sample for sample in samples if not cache.whole(keys[sample.name]))
    run.say(f"The cache has the {label} of {len(samples) - len(absent)} of {len(samples)} images.")
    for sample, each in computed(module, absent, run, label):
        cache.write(keys[sample.name], each)
    return Features(shape, lambda name: cache.read(keys[name]))


def computed(module: nn.Module, samples: Samples, run: Run, label: str) -> Iterable[tuple[Sample, Map]]:
    if not samples:
        return
    maps = run.outputs(run.compiled(module), samples, label)
    for sample, each in zip(samples, maps, strict=True):
        half = each.half()
        if not torch.isfinite(half).all():
            raise DataError(
                f"Of {sample.name} the backbone gave values that are no numbers or beyond 16 bits: use other "
                "weights or another backbone."
            )
        yield sample, half.numpy()


def room(count: int, shape: Shape, run: Run) -> Map:
    if 2 * count * prod(shape) <= run.memory_mb * 1e6:
        return np.empty((count, *shape), np.float16)
    with tempfile.TemporaryFile(prefix="blemish-features-") as file:  # gone with its last user
        return np.memmap(file, np.float16, "w+", shape=(count, *shape))


class Cache:
    """Maps of one shape as files, each whole or not there."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} {WRITING.format(error.strerror)}") from error

    def whole(self, key: str) -> bool:
        try:
            file = np.memmap(self.folder / key, np.uint8, "r")
        except (OSError, ValueError):  # the latter of an empty file
            return False
        return len(file) == SEAL + 2 * prod(self.shape) and file[:SEAL].tobytes() == seal(file[SEAL:])

    def read(self, key: str) -> Map:
        try:
            return np.memmap(self.folder / key, np.float16, "r", SEAL, self.shape)
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.folder / key} was changed while it was in use: leave the cache alone, and fit again."
            ) from error

    def write(self, key: str, each: Map) -> None:
        """Two processes that write the same file write the same into it, and whoever is last wins."""
        part = self.folder / f".{uuid4().hex}.part"
        data = each.tobytes()
        try:
            part.write_bytes(seal(data) + data)
            part.replace(self.folder / key)
        except OSError as error:
            raise OutputError(f"{self.folder} {WRITING.format(error.strerror)}") from error
        finally:
            part.unlink(missing_ok=True)


WRITING = "takes no features ({}): make room, choose another cache folder, or fit without one."


def seal(data: Any) -> bytes:
    return blake2b(data, digest_size=SEAL).digest()


def network_key(module: nn.Module, run: Run) -> str:
    """The graph says all of the network: architecture, weights, taps and size."""
    told = [run.format.to_json(), run.device.type, version("onnxruntime"), version("torch")]
    graph = export(module, run.format.channels, run.size, ["out"])
    return blake2b(json.dumps(told).encode() + graph, digest_size=SEAL).hexdigest()


def picture_key(picture: NDArray[Any]) -> str:
    told = f"{picture.dtype.str} {picture.shape} ".encode()
    return blake2b(told + picture.tobytes(), digest_size=SEAL).hexdigest()
