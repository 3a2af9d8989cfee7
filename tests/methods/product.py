"""A product of a few small pictures, and what is asked of its models."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_of
from torch import Tensor

import blemish
from blemish.data import Role, Sample, Samples
from blemish.images import Image, PixelFormat
from blemish.methods import Run

SIDE = 48
TRAINED = {"updates": 4, "head_updates": 2, "draws": 1, "forwards": 1, "rows": 64, "alpha": 0.5}
PLAIN = {"rows": 64, "alpha": 0.5}


def pictures(count: int = 5, channels: int = 3, dtype: type = np.uint8) -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    base = rng.integers(60, 120, (SIDE, SIDE, channels)).astype(dtype)
    scale = 1 if dtype == np.uint8 else 250
    return [(base + rng.integers(0, 20, base.shape).astype(dtype)) * dtype(scale) for _ in range(count)]


def marked(picture: NDArray[Any]) -> NDArray[Any]:
    bad = picture.copy()
    bad[14:34, 14:34, -1] = 250 if picture.dtype == np.uint8 else 62_500
    return bad


def fit(images: Any = None, **given: Any) -> blemish.Inspector:
    return blemish.fit(pictures() if images is None else images, size=SIDE, **given)


def datasets(images: list[NDArray[Any]], classes: Iterable[str] = ("",)) -> Samples:
    names = [f"{number}" for number in range(len(images))]
    classes = [*classes] * len(images)
    return Samples(
        "parts",
        "arrays",
        [
            Sample(name=name, role=Role.TRAIN, bad=False, klass=klass, pixels=image)
            for name, image, klass in zip(names, images, classes, strict=False)
        ],
    )


def run_for(samples: Samples, **changes: Any) -> Run:
    images: list[tuple[str, Image]] = [(sample.name, sample.read()) for sample in samples]
    return Run(size=(SIDE, SIDE), format=PixelFormat.of(images), **changes)


def backbone_in(model: blemish.Inspector) -> dict[str, Tensor]:
    prefix = "patches.backbone."
    weights = tensors_of(model.archive.weights)
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}
