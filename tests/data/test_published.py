import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from blemish.data import Role, read
from blemish.data.published import find_published, read_published
from blemish.errors import DataError, LayoutError
from blemish.images import write_png

PUBLISHED = sorted((Path(__file__).parents[3] / "shared" / "longtail").glob("*.json"))
FOLDERS = {"train/good": 4, "test/good": 2, "test/cut": 2, "ground_truth/cut": 2}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "mvtec"
    for klass in ("nut", "bolt"):
        for folder, number in FOLDERS.items():
            (root / klass / folder).mkdir(parents=True)
            for index in range(number):
                end = "_mask" if folder.startswith("ground") else ""
                write_png(root / klass / folder / f"{index}{end}.png", np.full((4, 4, 3), index, np.uint8))
    return root


NAMES = ["nut/train/good/0.png", "nut/train/good/2.png", "bolt/train/good/1.png"]


def rows(**more: str) -> list[dict[str, str | int]]:
    return [{"filename": name, "label": 0, "clsname": name.split("/")[0], **more} for name in NAMES]


FORMS: dict[str, tuple[str, str]] = {
    "tailedcore": ("l.json", json.dumps({"tailed_files": NAMES, "noisy_files": []})),
    "array": ("l.json", json.dumps(NAMES)),
    "rows": ("l.json", json.dumps(rows(maskname="nut/ground_truth/cut/0_mask.png"))),
    "by class": ("l.json", json.dumps({"nut": ["0.png", "2.png"], "bolt": ["1.png"]})),
    "by split": ("l.json", json.dumps({"train": {"nut": ["0.png", "2.png"], "bolt": ["1.png"]}})),
    "uniad": ("l.jsonl", "".join(json.dumps(row) + "\n" for row in rows())),
    "strings": ("l.jsonl", "".join(json.dumps(name) + "\n" for name in NAMES)),
    "csv": ("l.csv", "object,split,label,image\n" + "".join(f"x,train,normal,{name}\n" for name in NAMES)),
    "tsv": ("l.tsv", "".join(f"{name}\t0\n" for name in NAMES)),
    "bare csv": ("l.csv", "".join(f'"{name}",{name}\n' for name in NAMES)),
    "text": ("l.txt", "\r\n".join(NAMES)),
    "labels": ("l", "".join(f"{name} 0\n" for name in NAMES)),
    "windows": ("l.txt", "".join(f"D:\\data\\mvtec\\{name}\n".replace("/", "\\") for name in NAMES)),
    "elsewhere": ("l.lst", "".join(f"./mvtec_anomaly_detection/{name}\n" for name in NAMES)),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_names_the_same_images(parts: Path, tmp_path: Path, form: str) -> None:
    name, text = FORMS[form]
    if form == "by split":
        text = text.replace("good/0.png", "nut/train/good/0.png").replace(
            '"train/good/2', '"nut/train/good/2'
        )
    (tmp_path / name).write_text(text, newline="")
    found = find_published(read(parts), parts, tmp_path / name)
    train = found.samples.role(Role.TRAIN)
    assert sorted(sample.name for sample in train) == sorted(NAMES)
    assert len(found.samples.role(Role.TEST)) == 8  # untouched
    assert (found.missing, found.noise, found.untrained) == ((), (), ())
    assert found.samples.tail is not None
    assert (found.samples.tail.kind, dict(found.samples.tail.counts)) == ("l", {"nut": 2, "bolt": 1})


def test_a_single_class_is_found_by_its_name(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("\n".join(NAMES))
    found = find_published(read(parts / "nut"), parts / "nut", tmp_path / "l.txt")
    assert [s.name for s in found.samples.role(Role.TRAIN)] == ["train/good/0.png", "train/good/2.png"]
    assert found.missing_by_class == {"bolt": 1}


def test_test_images_are_those_named_if_any_are(parts: Path, tmp_path: Path) -> None:
    named = [*NAMES, "nut/test/cut/1.png", "nut/ground_truth/cut/1_mask.png"]
    (tmp_path / "l.txt").write_text("\n".join(named))
    found = find_published(read(parts), parts, tmp_path / "l.txt")
    test = Counter(sample.klass for sample in found.samples.role(Role.TEST))
    assert (test, found.missing) == ({"nut": 1, "bolt": 4}, ())
    assert found.fewer_tests == {"nut": (1, 4)}


def test_classes_that_it_does_not_name_are_told(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(NAMES[0])
    found = find_published(read(parts), parts, tmp_path / "l.txt")
    assert (found.samples.classes, found.unnamed) == (("nut",), ("bolt",))


def test_what_is_not_there_is_told(parts: Path, tmp_path: Path) -> None:
    noise = ["bolt/test/cut/0.png"]
    gone = ["nut/train/good/9.png", "screw/train/good/0.png", "screw/ground_truth/cut/0_mask.png"]
    listed = {"tailed_files": [NAMES[0], "bolt/test/good/0.png", *gone], "noisy_files": noise}
    (tmp_path / "l.json").write_text(json.dumps(listed))
    found = find_published(read(parts), parts, tmp_path / "l.json")
    assert found.entries == 6
    assert [entry.path for entry in found.missing] == gone
    assert found.missing_by_class == {"screw": 2, "nut": 1}
    assert [entry.path for entry in found.noise] == noise
    assert found.untrained == ("bolt",)
    assert found.samples.classes == ("nut",)

    rows_of_noise = [*rows(), {"filename": "nut/train/good/1.png", "label": 1}]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, rows_of_noise)))
    found = find_published(read(parts), parts, tmp_path / "n.jsonl")
    assert [entry.path for entry in found.noise] == ["nut/train/good/1.png"]
    assert sorted(sample.name for sample in found.samples.role(Role.TRAIN)) == sorted(NAMES)


@pytest.mark.parametrize("split", ["train", "Train"])
def test_what_is_learnt_from_though_it_is_defective_is_noise_and_no_test(
    parts: Path, tmp_path: Path, split: str
) -> None:
    """One such entry would take all other test images of its class away."""
    listed = [*rows(split=split), {"filename": "nut/test/cut/0.png", "label": "cut", "split": split}]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, listed)))
    found = find_published(read(parts), parts, tmp_path / "n.jsonl")
    assert [entry.path for entry in found.noise] == ["nut/test/cut/0.png"]
    test = Counter(sample.klass for sample in found.samples.role(Role.TEST))
    assert test == {"nut": 4, "bolt": 4}


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("l.json", '["screw/train/good/0.png"]', "None of the 1 entries of .*such as screw/train"),
        ("l.txt", "nut/test/good/0.png", "is a training image of .*which holds bolt/train/good/0"),
        ("l.json", '{"a": [1, null]}', "l.json names no pictures: give a JSON, JSONL, CSV or"),
        ("l.txt", "", "l.txt names no pictures"),
        ("l.json", "{", "l.json cannot be read as JSON"),
        ("l.csv", 'a.png,"b', "l.csv cannot be read as CSV"),
    ],
)
def test_a_list_of_which_nothing_can_be_used(
    parts: Path, tmp_path: Path, name: str, text: str, error: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=error):
        find_published(read(parts), parts, tmp_path / name)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        LayoutError, match=r"gone.json cannot be read \(No such file or directory\): check its"
    ):
        read_published(tmp_path / "gone.json")


@pytest.mark.real
@pytest.mark.skipif(not PUBLISHED, reason="needs ../shared/longtail")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem[6:12])
def test_real_lists_are_found_whole(path: Path, tmp_path: Path) -> None:
    """In a folder of empty files of the names that MVTec AD has."""
    listed = json.loads(path.read_text())["tailed_files"]
    for name in listed:
        (tmp_path / "mvtec" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mvtec" / name).touch()
    extra = tmp_path / "mvtec/tile/train/good/999.png"
    extra.touch()
    found = find_published(read(tmp_path / "mvtec"), tmp_path / "mvtec", path)
    assert (found.entries, found.missing, found.noise) == (len(listed), (), ())
    pictures = {name for name in listed if "/ground_truth/" not in name}
    assert {sample.name for sample in found.samples} == pictures
    assert all(sample.mask for sample in found.samples if sample.bad)
    with pytest.raises(
        LayoutError, match=r"is a list as another program writes them: make it one of ours with"
    ):
        read(path)
    assert found.samples.tail is not None
    high = found.samples.tail.groups.high
    if "pareto" in path.stem:
        assert high[:3] == ("grid", "carpet", "transistor")
        assert len(high) == 8
    else:  # of 15 classes nine are left with one image
        assert set(high) == {"carpet", "hazelnut", "leather", "screw", "tile", "zipper"}


def test_what_a_list_says_is_learnt_from_is_where_only_folders_say_what_is_good(tmp_path: Path) -> None:
    """Of good ones some are set aside for testing there, by name."""
    for klass, counts in {"nut": (20, 5), "bolt": (8, 3)}.items():
        for folder, count in zip(("good", "bad"), counts, strict=True):
            (tmp_path / "parts" / klass / folder).mkdir(parents=True)
            for index in range(count):
                picture = np.full((4, 4, 3), index, np.uint8)
                write_png(tmp_path / "parts" / klass / folder / f"{index}.png", picture)
    samples = read(tmp_path / "parts")
    aside = [s.name for s in samples.klass("nut") if s.role is Role.TEST and not s.bad]
    assert aside
    (tmp_path / "l.txt").write_text("".join(f"nut/good/{index}.png\n" for index in range(20)))
    found = find_published(samples, tmp_path / "parts", tmp_path / "l.txt").samples
    assert Counter((s.role, s.bad) for s in found) == {(Role.TRAIN, False): 20, (Role.TEST, True): 5}
    rows = [
        {"image": name, "split": "test" if name in aside else "train"} for name in (s.name for s in found)
    ]
    (tmp_path / "l.json").write_text(json.dumps([row for row in rows if "/good/" in row["image"]]))
    found = find_published(samples, tmp_path / "parts", tmp_path / "l.json").samples
    assert {s.name for s in found if s.role is Role.TEST} == set(aside), "the list's own test images"


def test_what_data_keeps_to_calibrate_with_stays_that(parts: Path, tmp_path: Path) -> None:
    for index in range(2):
        (parts / "nut/validation/good").mkdir(parents=True, exist_ok=True)
        write_png(parts / f"nut/validation/good/{index}.png", np.full((4, 4, 3), 9, np.uint8))
    (tmp_path / "l.txt").write_text("nut/train/good/0.png\nnut/validation/good/1.png\n")
    found = find_published(read(parts), parts, tmp_path / "l.txt").samples
    roles = {sample.name: sample.role for sample in found if not sample.bad and sample.role is not Role.TEST}
    assert roles == {"nut/train/good/0.png": Role.TRAIN, "nut/validation/good/1.png": Role.CALIBRATION}
