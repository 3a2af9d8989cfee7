"""Drawn photographs of products and of textures, arranged as MVTec AD is, free of anybody's rights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.demo import gear, label, textures, weave
from blemish.data.demo.camera import Plane, develop
from blemish.errors import OutputError, UsageError
from blemish.images import write_png

__all__ = ["PRODUCTS", "TEXTURES", "Picture", "render", "write", "write_textures"]


class Product(NamedTuple):
    draw: Callable[[np.random.Generator, int, str], tuple[Plane, Plane | None]]
    """The scene without and, unless the kind is good, with a defect of that kind."""
    kinds: tuple[str, ...]


_DRAWN = {
    "gear": Product(gear.draw, gear.KINDS),
    "label": Product(label.draw, label.KINDS),
    "weave": Product(weave.draw, weave.KINDS),
}
PRODUCTS = tuple(_DRAWN)
TEXTURES = tuple(textures.KINDS)
SMALLEST = 4e-4
"""Share of the picture that a defect covers at least."""


class Picture(NamedTuple):
    pixels: NDArray[np.uint8]
    intact: NDArray[np.uint8]
    """The same picture, had the product no defect."""
    mask: NDArray[np.bool_]


def render(folder: str, index: int, *, seed: int = 0, size: int = 256) -> Picture:
    """The picture of that number in a folder such as `gear/train/good` or `canvas/test/slip`."""
    product, _, kind = folder.split("/")
    attempt = 0
    while True:
        key = [seed, crc32(folder.encode()), index, attempt]
        scene, sensor = (np.random.default_rng([*key, stream]) for stream in (0, 1))
        if product in _DRAWN:
            picture = Picture(*develop(sensor, *_DRAWN[product].draw(scene, size, kind), size))
        else:
            picture = Picture(*textures.take(scene, sensor, product, kind, size))
        if kind == "good" or picture.mask.mean() > SMALLEST:
            return picture
        attempt += 1  # the oil has dripped through a hole


def write(
    root: Path,
    *,
    seed: int = 0,
    size: int = 256,
    train: int = 60,
    test_good: int = 15,
    test_bad: int = 20,
    products: Sequence[str] = PRODUCTS,
) -> list[Path]:
    """Write the products' folders and return them; `test_bad` is shared out among the kinds of defect."""
    if unknown := [product for product in products if product not in _DRAWN]:
        raise UsageError(f"There is no demo product {unknown[0]!r}: choose among {', '.join(PRODUCTS)}.")
    for product in products:
        counts = _counts(product, _DRAWN[product].kinds, train, test_good, test_bad)
        _write(root, counts, seed=seed, size=size)
    return [root / product for product in products]


def write_textures(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 256,
    classes: Sequence[str] = TEXTURES,
    good: int = 300,
    test: int = 60,
) -> list[Path]:
    """Write the classes' folders and return them: `good` to learn from, `test` good and as many bad to test.

    Grey, in the manner of DAGM 2007: different surfaces with defects that are weakly visible.
    """
    if unknown := [klass for klass in classes if klass not in TEXTURES]:
        raise UsageError(f"There is no texture {unknown[0]!r}: choose among {', '.join(TEXTURES)}.")
    for klass in classes:
        _write(folder, _counts(klass, tuple(textures.KINDS[klass]), good, test, test), seed=seed, size=size)
    return [folder / klass for klass in classes]


def _counts(product: str, kinds: Sequence[str], train: int, test_good: int, test_bad: int) -> dict[str, int]:
    counts = {f"{product}/train/good": train, f"{product}/test/good": test_good}
    return counts | {
        f"{product}/test/{kind}": len(range(order, test_bad, len(kinds))) for order, kind in enumerate(kinds)
    }


def _write(root: Path, counts: Mapping[str, int], *, seed: int, size: int) -> None:
    for folder, number in counts.items():
        _folder(root / folder)
        for index in range(number):
            picture = render(folder, index, seed=seed, size=size)
            save = write_png if picture.pixels.ndim == 3 else _write_grey
            save(root / folder / f"{index:03d}.png", picture.pixels)
            if not folder.endswith("/good"):
                truth = _folder(root / folder.replace("/test/", "/ground_truth/"))
                white = np.repeat(picture.mask[..., None], 3, axis=2).astype(np.uint8) * 255
                write_png(truth / f"{index:03d}_mask.png", white)


def _write_grey(path: Path, grey: NDArray[np.uint8]) -> None:
    """One channel takes a third of the room of three that are alike."""
    _, png = cv2.imencode(".png", grey)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(png.tobytes())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): check that there is room."
        ) from error


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be made ({error.strerror}): choose another folder to write to."
        ) from error
    return path
