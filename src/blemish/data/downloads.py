"""Published data sets as they come out of their archives: one small function each, as in `layouts`.

Only good images are learnt from, so what is defective in a part meant for training is left out, which is how
these sets are used where nothing but good parts is known.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from blemish import images
from blemish.data.folders import pictures, stem, subfolders
from blemish.data.roles import GOOD_FOR_TEST, draw, spare_for_test
from blemish.data.samples import Role, Sample
from blemish.errors import DataError, LayoutError

__all__ = ["dagm", "kolektor", "kolektor2", "magnetic_tile", "mvtec3d", "visa"]

SHOWN = 3
AGAIN = "unpack the data set again."
SPLITS_3D = {"train": Role.TRAIN, "validation": Role.CALIBRATION, "test": Role.TEST}
PLACE_3D = re.compile(r"((train|validation)/good|test/[^/]+)/(rgb|xyz|gt)/[^/]+")
VISA_SPLIT = "split_csv/1cls.csv"
VISA_GOOD = "Data/Images/Normal"


def _good(root: Path, names: Iterable[str], role: Role) -> list[Sample]:
    return [Sample(name=name, role=role, bad=False, path=root / name) for name in names]


def _bad(root: Path, name: str, mask: Path | None, kind: str = "bad") -> Sample:
    return Sample(name=name, role=Role.TEST, bad=True, kind=kind, path=root / name, mask=mask)


def _by_label(root: Path, labels: dict[str, str]) -> tuple[list[str], list[Sample]]:
    """Names of good pictures, whose label is empty, and the defective ones."""
    marked = {name for name, label in labels.items() if images.read_mask(root / label).any()}
    bad = [_bad(root, name, root / label) for name, label in labels.items() if name in marked]
    return [name for name in labels if name not in marked], bad


def _labels(names: Sequence[str], ending: str, folder: str = "") -> dict[str, str]:
    """The label of each picture, named as it but for the ending; a picture without one is refused."""
    names = [name for name in names if not stem(name).endswith(" (copy)")]  # two in KolektorSDD2
    found = {stem(name).removesuffix(ending): name for name in names if stem(name).endswith(ending)}
    if not found:
        return {}
    others = [name for name in names if not stem(name).endswith(ending)]
    if bare := [name for name in others if stem(name) not in found]:
        label = Path(stem(bare[0])).name + ending
        raise DataError(f"{folder}{bare[0]} has no label {label} beside it: {AGAIN}")
    return {folder + name: folder + found[stem(name)] for name in others}


def mvtec3d(root: Path) -> list[Sample] | None:
    """The colours of MVTec 3D-AD, not its points."""
    names = [f"{split}/{name}" for split in SPLITS_3D for name in pictures(root / split)]
    if not names or not all(PLACE_3D.fullmatch(name) for name in names):
        return None
    samples = []
    for name in (each for each in names if "/rgb/" in each):
        split, kind, _, file = name.split("/")
        if kind == "good":
            samples += _good(root, [name], SPLITS_3D[split])
        else:
            masks = sorted((root / split / kind / "gt").glob(f"{stem(file)}.*"))
            samples.append(_bad(root, name, masks[0] if masks else None, kind))
    return samples


def visa(root: Path) -> list[Sample] | None:
    """All products by the official split for one class each, or one product in such a folder."""
    alone = (root / VISA_GOOD).is_dir()
    top = root.resolve().parent if alone else root
    if not (top / VISA_SPLIT).is_file():
        if alone or any((root / each / VISA_GOOD).is_dir() for each in subfolders(root)):
            raise LayoutError(
                f"{root} looks like VisA, but there is no {top / VISA_SPLIT}: "
                "put it there, for it says which images train and which test."
            )
        return None
    try:
        with (top / VISA_SPLIT).open(encoding="utf-8-sig", newline="") as file:
            samples = [
                _of_visa(top, row, alone)
                for row in csv.DictReader(file, restval="")
                if (row["object"] == root.resolve().name if alone else (root / row["object"]).is_dir())
            ]
    except (KeyError, ValueError, csv.Error) as error:
        raise LayoutError(
            f"{top / VISA_SPLIT} cannot be understood ({error}): give it as it was published."
        ) from error
    files = [file for sample in samples for file in (sample.path, sample.mask) if file is not None]
    if missing := [str(file) for file in files if not file.is_file()]:
        some = ", ".join(missing[:SHOWN])
        raise DataError(f"{len(missing)} files that {top / VISA_SPLIT} names are not there ({some}): {AGAIN}")
    return samples


def _of_visa(top: Path, row: dict[str, str], alone: bool) -> Sample:
    bad = row["label"] != "normal"
    return Sample(
        name=row["image"].removeprefix(f"{row['object']}/") if alone else row["image"],
        role=Role(row["split"]),
        bad=bad,
        kind="bad" if bad else "good",
        klass="" if alone else row["object"],
        path=top / row["image"],
        mask=top / row["mask"] if row["mask"] else None,
    )


def kolektor(root: Path) -> list[Sample] | None:
    """KolektorSDD, whose folds are not in the archive: whole items are set aside for testing, so that no good
    side tests of an item whose other sides were learnt from."""
    items = [folder for folder in subfolders(root) if re.fullmatch(r"kos\d+", folder)]
    labels = _labels([f"{item}/{name}" for item in items for name in pictures(root / item)], "_label")
    if not labels:
        return None
    good, bad = _by_label(root, labels)
    for_test = draw(items, round(GOOD_FOR_TEST * len(items)), "test")
    roles = {name: Role.TEST if name.split("/")[0] in for_test else Role.TRAIN for name in good}
    return [sample for name, role in roles.items() for sample in _good(root, [name], role)] + bad


def kolektor2(root: Path) -> list[Sample] | None:
    names = {split: pictures(root / split) for split in ("train", "test")}
    labels = {split: _labels(names[split], "_GT", f"{split}/") for split in names}
    if not labels["train"]:
        return None
    if names["test"] and not labels["test"]:
        raise DataError(f"{root / 'test'} has no labels: {AGAIN}")
    (learnt, _), (good, bad) = (_by_label(root, labels[split]) for split in ("train", "test"))
    return _good(root, learnt, Role.TRAIN) + _good(root, good, Role.TEST) + bad


def dagm(root: Path) -> list[Sample] | None:
    """One class of DAGM 2007: only defective images have a label."""
    found = {split: pictures(root / split) for split in ("Train", "Test")}
    if not any(stem(name).endswith("_label") for names in found.values() for name in names):
        return None
    samples = []
    for split, role in (("Train", Role.TRAIN), ("Test", Role.TEST)):
        names = [name for name in found[split] if "/" not in name]
        marks = {stem(name): f"{split}/{name}" for name in found[split] if name.startswith("Label/")}
        if names and not marks:
            raise DataError(f"{root / split} has no labels: {AGAIN}")
        labels = {f"{split}/{name}": marks.get(f"Label/{stem(name)}_label", "") for name in names}
        empty, bad = _by_label(root, {name: label for name, label in labels.items() if label})
        samples += _good(root, [name for name in labels if name in empty or not labels[name]], role)
        samples += bad if role is Role.TEST else []
    return samples


def magnetic_tile(root: Path) -> list[Sample] | None:
    """MT_Free is good, every other MT_ folder a kind of defect; pictures are JPEG, and their masks PNG."""
    if not (root / "MT_Free/Imgs").is_dir():
        return None
    good: list[Sample] = []
    bad: list[Sample] = []
    for folder in (name for name in subfolders(root) if name.startswith("MT_")):
        names = [f"{folder}/Imgs/{name}" for name in pictures(root / folder / "Imgs")]
        masks = {stem(name): root / name for name in names if name.lower().endswith(".png")}
        shown = [name for name in names if not name.lower().endswith(".png")]
        if folder == "MT_Free":
            good = _good(root, shown, Role.TRAIN)
        else:
            bad += [_bad(root, name, masks.get(stem(name)), folder.removeprefix("MT_")) for name in shown]
    return spare_for_test(good, bad)
