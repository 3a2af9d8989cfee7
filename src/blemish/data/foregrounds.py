"""Users' own masks of where the product is, found by the names of the pictures."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.data.folders import pictures, stem
from blemish.data.samples import Sample
from blemish.errors import DataError, MaskError, UsageError

__all__ = ["read_foregrounds"]


def read_foregrounds(folder: Path, samples: Iterable[Sample]) -> dict[str, NDArray[np.bool_]]:
    """The mask of each sample by its name, as large as its picture and nowhere empty.

    Below `folder` the mask of `train/good/003.png` is `train/good/003.png` or `train/good/003_mask.png`, or
    without the folders if no other sample is called 003; with the suffix of any kind of picture.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} {'is no folder' if folder.exists() else 'does not exist'}: give the folder that holds "
            "the foreground masks."
        )
    paths: dict[str, Path] = {}
    for sample in samples:
        if sample.path is None:
            raise UsageError(
                f"{sample.name} is an array, but foreground masks are found by the names of files: "
                "give the pictures as files."
            )
        paths[sample.name] = sample.path
    return {name: _read(mask, paths[name]) for name, mask in _match(folder, paths).items()}


def _match(folder: Path, paths: dict[str, Path]) -> dict[str, Path]:
    files: dict[str, list[Path]] = {}
    for name in pictures(folder):
        files.setdefault(stem(name), []).append(folder / name)
    alike = Counter(_last(name) for name in paths)
    found: dict[str, Path] = {}
    for name, path in paths.items():
        keys = {stem(name), _last(name)} if alike[_last(name)] == 1 else {stem(name)}
        fitting = [file for key in sorted(keys) for end in ("", "_mask") for file in files.get(key + end, [])]
        masks = [file for file in fitting if not file.samefile(path)]
        if len(masks) > 1:
            raise MaskError(f"{name} has two foreground masks, {masks[0]} and {masks[1]}: keep one of them.")
        if masks:
            found[name] = masks[0]
    if missing := [name for name in paths if name not in found]:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        first = _last(missing[0]) if alike[_last(missing[0])] == 1 else stem(missing[0])
        raise MaskError(
            f"{len(missing)} of {len(paths)} images have no foreground mask in {folder} ({some}): name each "
            f"mask after its image, here {first}_mask.png."
        )
    if shared := [mask for mask, count in Counter(found.values()).items() if count > 1]:
        one, other, *_ = (name for name, mask in found.items() if mask == shared[0])
        raise MaskError(f"The foreground mask {shared[0]} fits {one} and {other}: rename one of the images.")
    return found


def _last(name: str) -> str:
    return stem(name).rpartition("/")[2]


def _read(mask: Path, path: Path) -> NDArray[np.bool_]:
    height, width = images.read(path).shape[:2]
    foreground = images.read_mask(mask, (height, width))
    if not foreground.any():
        raise MaskError(
            f"The foreground mask {mask} is empty: mark the product in it, or all of it where a defect may "
            "be anywhere."
        )
    return foreground
