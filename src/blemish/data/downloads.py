"""Published data sets as they come out of their archives: one small function each, as in `layouts`.

Only good images are learnt from, so what is defective in a part meant for training is left out, which is how
these sets are used where nothing but good parts is known.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from blemish import images
from blemish.data.folders import pictures, stem, subfolders
from blemish.data.roles import spare_for_test
from blemish.data.samples import Role, Sample
from blemish.errors import DataError, LayoutError

__all__ = ["dagm", "kolektor", "kolektor2", "magnetic_tile", "mvtec3d", "visa"]

SHOWN = 3
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
    found = {stem(name).removesuffix(ending): name for name in names if stem(name).endswith(ending)}
    if not found:
        return {}
    others = [name for name in names if not stem(name).endswith(ending)]
    if bare := [name for name in others if stem(name) not in found]:
        raise DataError(
            f"{folder}{bare[0]} has no label {Path(stem(bare[0])).name}{ending} beside it: "
            "unpack the data set again."
        )
    return {folder + name: folder + found[stem(name)] for name in others}


def mvtec3d(root: Path) -> list[Sample] | None:
    """The colours of MVTec 3D-AD, not its points."""
    if not (root / "train/good/rgb").is_dir():
        return None

    def below(folder: str) -> list[str]:
        return [f"{folder}/{name}" for name in pictures(root / folder)]

    samples = _good(root, below("train/good/rgb"), Role.TRAIN)
    samples += _good(root, below("validation/good/rgb"), Role.CALIBRATION)
    samples += _good(root, below("test/good/rgb"), Role.TEST)
    for kind in (each for each in subfolders(root / "test") if each != "good"):
        masks = {Path(name).stem: root / name for name in below(f"test/{kind}/gt")}
        samples += [_bad(root, name, masks.get(Path(name).stem), kind) for name in below(f"test/{kind}/rgb")]
    return samples


def visa(root: Path) -> list[Sample] | None:
    """All products by the official split for one class each, or one product in such a folder."""
    alone = (root / VISA_GOOD).is_dir()
    top = root.absolute().parent if alone else root
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
                if (row["object"] == root.absolute().name if alone else (root / row["object"]).is_dir())
            ]
    except (KeyError, ValueError, csv.Error) as error:
        raise LayoutError(
            f"{top / VISA_SPLIT} cannot be understood ({error}): give it as it was published."
        ) from error
    if missing := [sample.name for sample in samples if sample.path and not sample.path.is_file()]:
        raise DataError(
            f"{len(missing)} images that {top / VISA_SPLIT} names are not there "
            f"({', '.join(missing[:SHOWN])}): unpack the data set again."
        )
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
    """KolektorSDD, which has no parts for training and testing: some good images are set aside."""
    if not any(folder.startswith("kos") for folder in subfolders(root)):
        return None
    labels = _labels(pictures(root), "_label")
    if not labels:
        return None
    good, bad = _by_label(root, labels)
    return spare_for_test(_good(root, good, Role.TRAIN), bad)


def kolektor2(root: Path) -> list[Sample] | None:
    labels = {split: _labels(pictures(root / split), "_GT", f"{split}/") for split in ("train", "test")}
    if not labels["train"]:
        return None
    (learnt, _), (good, bad) = (_by_label(root, labels[split]) for split in ("train", "test"))
    return _good(root, learnt, Role.TRAIN) + _good(root, good, Role.TEST) + bad


def dagm(root: Path) -> list[Sample] | None:
    """One class of DAGM 2007: an image with a label is defective."""
    if not (root / "Train/Label").is_dir():
        return None
    samples = []
    for split, role in (("Train", Role.TRAIN), ("Test", Role.TEST)):
        names = [name for name in pictures(root / split) if "/" not in name]
        marks = {stem(name).removesuffix("_label"): name for name in pictures(root / split / "Label")}
        samples += _good(root, (f"{split}/{name}" for name in names if stem(name) not in marks), role)
        if role is Role.TEST:
            samples += [
                _bad(root, f"{split}/{name}", root / split / "Label" / marks[stem(name)])
                for name in names
                if stem(name) in marks
            ]
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
