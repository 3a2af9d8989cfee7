"""What is in a folder: one small function a layout, which returns None for data arranged otherwise."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.downloads import dagm, kolektor, kolektor2, magnetic_tile, mvtec3d, visa
from blemish.data.folders import contents, pictures, stem, subfolders
from blemish.data.lists import BAD_WORDS, GOOD_WORDS, LIST_SUFFIXES, read_list, read_tail
from blemish.data.roles import spare_for_test
from blemish.data.samples import Role, Sample, Samples
from blemish.errors import DataError, LayoutError, MaskError, PixelFormatError, UsageError
from blemish.images import IMAGE_SUFFIXES, as_image

__all__ = ["LAYOUTS", "Layout", "read"]

MASK_FOLDERS = frozenset({"ground_truth", "mask", "masks"})
MASK_ENDINGS = ("_mask", "_label", "_GT")
SPLIT_FOLDERS = frozenset({"train", "test", "validation", "val"})

Reader = Callable[[Path], list[Sample] | None]


class Layout(NamedTuple):
    read: Reader
    arrangement: str


def _good(root: Path, folder: str, role: Role) -> list[Sample]:
    below = root / folder
    return [
        Sample(name=f"{folder}/{name}", role=role, bad=False, path=below / name) for name in pictures(below)
    ]


def _masks(folder: Path) -> dict[str, Path]:
    """By the path of the picture without suffix: `cut/001` for `cut/001_mask.png` or `cut/001.png`."""
    # 001_mask.png is sorted after 001.png, and so wins
    return {stem(name).removesuffix("_mask"): folder / name for name in pictures(folder)}


def _check_masks_fit(masks: dict[str, Path], samples: Sequence[Sample]) -> None:
    """A mask that is named wrongly would silently leave its picture out of all that is said of maps."""
    used = {sample.mask for sample in samples}
    unused = [mask for mask in masks.values() if mask not in used and mask.parent not in used]
    unmarked = next((sample for sample in samples if sample.bad and sample.mask is None), None)
    if unused and unmarked is not None:
        raise MaskError(
            f"{len(unused)} of {len(masks)} masks fit no picture, such as {unused[0]}: name them after their "
            f"pictures, as {unmarked.kind}/{Path(unmarked.name).stem}_mask.png for {unmarked.name}."
        )


def _check_nothing_beside(root: Path, good: str) -> None:
    """Pictures of which nothing is known would silently be left out."""
    for split in sorted(SPLIT_FOLDERS):
        names = pictures(root / split)
        known = {"test": "", "val": "/"}.get(split, f"{good}/")
        if strays := [name for name in names if "/" not in name or not name.startswith(known)]:
            raise LayoutError(
                f"Of {root / split / strays[0]} nothing is known: move good pictures to train/{good} or "
                f"validation/{good} and defective ones to test/<kind>."
            )


def _tests_alone(root: Path, good: str) -> bool:
    if not (root / "test" / good).is_dir() or "train" in subfolders(root):
        return False
    return all(name.startswith(("test/", "ground_truth/")) for name in pictures(root))


def mvtec(root: Path, good: str = "good") -> list[Sample] | None:
    """MVTec AD and LOCO, of which the latter has a folder of masks for each picture. To measure a model the
    test images are enough."""
    if not (root / "train" / good).is_dir() and not _tests_alone(root, good):
        return None
    _check_nothing_beside(root, good)
    masks = _masks(root / "ground_truth")

    def mask(name: str) -> Path | None:
        folder = root / "ground_truth" / name
        return masks.get(name) or (folder if folder.is_dir() else None)

    samples = _good(root, f"train/{good}", Role.TRAIN)
    samples += _good(root, f"validation/{good}", Role.CALIBRATION)
    samples += [
        Sample(
            name=f"test/{kind}/{name}",
            role=Role.TEST,
            bad=kind.lower() not in GOOD_WORDS,
            kind="good" if kind.lower() in GOOD_WORDS else kind,
            path=root / "test" / kind / name,
            mask=mask(f"{kind}/{stem(name)}"),
        )
        for kind in subfolders(root / "test")
        for name in pictures(root / "test" / kind)
    ]
    _check_masks_fit(masks, samples)
    return samples


def good_bad(root: Path) -> list[Sample] | None:
    folders = subfolders(root)
    good_folders = [name for name in folders if name.lower() in GOOD_WORDS]
    if not good_folders:
        return None
    bad_folders = [name for name in folders if name.lower() in BAD_WORDS]
    mask_folders = [name for name in folders if name.lower() in MASK_FOLDERS]
    others = [name for name in folders if name not in good_folders + bad_folders + mask_folders]
    if strays := [name for name in others if pictures(root / name)]:
        raise LayoutError(
            f"Beside {good_folders[0]}/ in {root} are pictures of which nothing is known, in {strays[0]}/: "
            f"move defective ones to bad/{strays[0]}, or name all images in a list."
        )
    masks = {key: mask for folder in mask_folders for key, mask in _masks(root / folder).items()}
    good = [
        replace(sample, mask=masks.get(stem(sample.name)))
        for folder in good_folders
        for sample in _good(root, folder, Role.TRAIN)
    ]
    bad = [
        Sample(
            name=f"{folder}/{name}",
            role=Role.TEST,
            bad=True,
            kind=name.split("/")[0] if "/" in name else "bad",
            path=root / folder / name,
            mask=masks.get(f"{folder}/{stem(name)}", masks.get(stem(name))),
        )
        for folder in bad_folders
        for name in pictures(root / folder)
    ]
    _check_masks_fit(masks, [*good, *bad])
    return spare_for_test(good, bad)


def _mask_among(names: Sequence[str]) -> str | None:
    """One that is called as a picture and `_mask`, or that is a PNG with the name of a JPEG."""
    stems = {stem(name) for name in names}
    photographs = {stem(name) for name in names if name.lower().endswith((".jpg", ".jpeg"))}
    for name in names:
        if any(stem(name).endswith(end) and stem(name).removesuffix(end) in stems for end in MASK_ENDINGS):
            return name
        if name.lower().endswith(".png") and stem(name) in photographs:
            return name
    return None


def folder_of_good(root: Path) -> list[Sample] | None:
    if not root.is_dir():
        return None
    names = pictures(root)
    within = {part for folder in {name.rpartition("/")[0] for name in names} for part in folder.split("/")}
    if suspect := sorted(
        part
        for part in within
        if part.lower() in BAD_WORDS | MASK_FOLDERS | {"test"}
        or (part.endswith("_def") and part.removesuffix("_def") in within)  # DAGM 2007, as it first was
    ):
        raise LayoutError(
            f"{root} is no plain folder of good images, for it has {suspect[0]}/ in it: arrange it as "
            "train/good and test/<kind>, or as good and bad, or give the folder of the good images alone."
        )
    if (mask := _mask_among(names)) is not None:
        raise LayoutError(
            f"{root / mask} has the name of a mask of another picture beside it, and {root} is to be a plain "
            "folder of good images: move masks elsewhere, or give the whole of a published data set."
        )
    return [Sample(name=name, role=Role.TRAIN, bad=False, path=root / name) for name in names]


def _no_pictures(root: Path) -> str:
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"There are no pictures in {root} ({contents(root)}): add some with the suffix {suffixes}."


def _or_products(layout: Reader) -> Reader:
    """Read what has a layout, or else a folder of products of which each has it."""

    def read_products(root: Path) -> list[Sample] | None:
        if (samples := layout(root)) is not None:
            return samples
        if any(name.lower() in SPLIT_FOLDERS for name in subfolders(root)):
            return None
        readings = {name: layout(root / name) for name in subfolders(root)}
        found = {name: samples for name, samples in readings.items() if samples is not None}
        if found and (others := [name for name in readings if name not in found and pictures(root / name)]):
            raise LayoutError(
                f"{root / others[0]} is not arranged as {next(iter(found))} beside it, but holds pictures: "
                "arrange it alike, or move it elsewhere."
            )
        if any(found.values()) and (empty := [name for name, samples in found.items() if not samples]):
            raise LayoutError(_no_pictures(root / empty[0]))
        return [
            replace(sample, name=f"{klass}/{sample.name}", klass=klass)
            for klass, samples in found.items()
            for sample in samples
        ] or None

    return read_products


LAYOUTS: dict[str, Layout] = {  # the strictest first
    "list": Layout(read_list, "a CSV, JSONL or JSON list with the columns image,label,split,mask,class"),
    "mvtec-3d": Layout(
        _or_products(mvtec3d), "train/good/rgb, test/<kind>/rgb and test/<kind>/gt, as in MVTec 3D-AD"
    ),
    "mvtec": Layout(_or_products(mvtec), "train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png"),
    "btad": Layout(_or_products(partial(mvtec, good="ok")), "train/ok, test/ok, test/ko and ground_truth/ko"),
    "visa": Layout(visa, "split_csv/1cls.csv and <product>/Data/Images"),
    "kolektor": Layout(_or_products(kolektor), "kos<NN>/<name>.jpg and kos<NN>/<name>_label.bmp"),
    "kolektor2": Layout(_or_products(kolektor2), "train and test with <name>.png and <name>_GT.png"),
    "dagm": Layout(_or_products(dagm), "Train, Test, and in each Label/<name>_label.PNG"),
    "magnetic-tile": Layout(_or_products(magnetic_tile), "MT_Free/Imgs and MT_<kind>/Imgs"),
    "good-bad": Layout(_or_products(good_bad), "good, bad (also OK/NG, ok/ko, normal/abnormal) and masks"),
    "folder": Layout(folder_of_good, "a folder of good images"),
}


def read(
    data: str | Path | NDArray[Any] | Sequence[NDArray[Any] | Path | str], *, layout: str | None = None
) -> Samples:
    """What the data holds and which role each image has; pixels are read later, one image at a time."""
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    samples = _read_path(Path(data).expanduser(), layout) if isinstance(data, str | Path) else _arrays(data)
    name, count = Counter(sample.name for sample in samples).most_common(1)[0]
    if count > 1:
        raise DataError(f"{name} is given {count} times: name each image once.")
    return samples


def _read_path(root: Path, layout: str | None) -> Samples:
    if not root.exists():
        raise LayoutError(f"{root} does not exist: check its spelling and that its drive is mounted.")
    if root.is_file() and root.suffix.lower() not in LIST_SUFFIXES:
        raise LayoutError(f"{root} is no list ({', '.join(LIST_SUFFIXES)}): give a folder or a list.")
    for name in [layout] if layout else LAYOUTS:
        items = LAYOUTS[name].read(root)
        if items:
            tail = read_tail(root) if name == "list" else None
            return Samples(root.stem if root.is_file() else root.resolve().name, name, tuple(items), tail)
        if items is not None:
            raise LayoutError(_no_pictures(root))
    expected = LAYOUTS[layout or "folder"].arrangement
    raise LayoutError(
        f"{root} does not have the layout {layout}, which is {expected}: choose another layout."
    )


def _arrays(data: NDArray[Any] | Sequence[NDArray[Any] | Path | str]) -> Samples:
    if isinstance(data, np.ndarray) and data.ndim != 4:
        raise PixelFormatError(
            f"An array of shape {data.shape} is no sequence of images: put a single image in a list."
        )
    if len(data) == 0:
        raise LayoutError("The sequence holds no images: give arrays, or paths of images.")
    samples = []
    for index, item in enumerate(data):
        if isinstance(item, np.ndarray):
            name = f"array-{index:04d}"
            samples.append(Sample(name=name, role=Role.TRAIN, bad=False, pixels=as_image(item, name)))
        elif Path(item).is_file():
            samples.append(Sample(name=Path(item).as_posix(), role=Role.TRAIN, bad=False, path=Path(item)))
        else:
            raise DataError(f"{item} is no file: check the paths in the sequence.")
    return Samples("arrays", "arrays", tuple(samples))
