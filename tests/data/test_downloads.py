"""Published data sets as they are unpacked, each drawn small."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blemish.data import Role, Samples, check_masks, list_text, read
from blemish.data.published import find_published
from blemish.errors import DataError, LayoutError, MaskError
from blemish.images import write_png
from tests.data.test_layouts import picture, summary

MARK = np.zeros((4, 6, 1), np.uint8)


def label(path: Path, where: tuple[int, int] | None = (1, 1)) -> Path:
    marked = MARK.copy()
    if where is not None:
        marked[where] = 1  # VisA's and KolektorSDD's marks are small numbers
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, marked)
    return path


def loco(root: Path) -> Path:
    for name in ("train/good/000.png", "validation/good/000.png", "test/good/000.png"):
        picture(root / name)
    for number in ("000", "001"):
        picture(root / f"test/logical_anomalies/{number}.png")
    label(root / "ground_truth/logical_anomalies/000/000.png", (0, 0))
    label(root / "ground_truth/logical_anomalies/000/001.png", (3, 5))
    label(root / "ground_truth/logical_anomalies/001/000.png", (2, 2))
    return root


def mvtec3d(root: Path) -> Path:
    (root / "calibration").mkdir(parents=True)
    (root / "calibration/camera_parameters.json").write_text("{}")
    for part in ("train/good", "validation/good", "test/good", "test/hole"):
        picture(root / part / "rgb/000.png")
        picture(root / part / "xyz/000.png", 7)  # .tiff in the real one: no picture to learn from either
        label(root / part / "gt/000.png", (1, 1) if part == "test/hole" else None)
    return root


def btad(root: Path) -> Path:
    for name in ("train/ok/0000.bmp", "train/ok/0001.png", "test/ok/0000.png", "test/ko/0000.png"):
        picture(root / name)
    label(root / "ground_truth/ko/0000.png")
    return root


def visa(root: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for product in ("candle", "fryum"):
        images = f"{product}/Data/Images"
        for name in ("000", "001", "002"):
            picture(root / f"{images}/Normal/{name}.JPG")
            split = "test" if name == "002" else "train"
            rows.append(f"{product},{split},normal,{images}/Normal/{name}.JPG,")
        picture(root / f"{images}/Anomaly/000.png")
        label(root / f"{product}/Data/Masks/Anomaly/000.png")
        rows.append(f"{product},test,anomaly,{images}/Anomaly/000.png,{product}/Data/Masks/Anomaly/000.png")
    rows.append("pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,")  # a product that was not unpacked
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows))
    return root


def kolektor(root: Path) -> Path:
    for number in range(1, 4):
        for part in range(2):
            picture(root / f"kos{number:02}/Part{part}.png")
            label(root / f"kos{number:02}/Part{part}_label.png", (1, 1) if number + part == 1 else None)
    return root


def kolektor2(root: Path) -> Path:
    for split in ("train", "test"):
        for number in range(3):
            picture(root / split / f"1000{number}.png")
            label(root / split / f"1000{number}_GT.png", (1, 1) if number == 1 else None)
    picture(root / "train/10001 (copy).png")  # so it is in the published archive
    label(root / "train/10001_GT (copy).png")
    return root


def dagm(root: Path) -> Path:
    for split in ("Train", "Test"):
        for number in range(3):
            picture(root / split / f"000{number}.PNG")
        label(root / split / "Label/0001_label.PNG")
        (root / split / "Label/Labels.txt").write_text("")
    return root


def magnetic_tile(root: Path) -> Path:
    for number in range(5):
        picture(root / f"MT_Free/Imgs/free{number}.jpg")
        label(root / f"MT_Free/Imgs/free{number}.png", None)
    for kind in ("Blowhole", "Crack"):
        picture(root / f"MT_{kind}/Imgs/exp1.jpg")
        label(root / f"MT_{kind}/Imgs/exp1.png")
    (root / "README.md").write_text("")
    return root


EXPECTED = {
    "mvtec": (loco, 1, 1, 1, {"logical_anomalies": 2}),
    "mvtec-3d": (mvtec3d, 1, 1, 1, {"hole": 1}),
    "btad": (btad, 2, 0, 1, {"ko": 1}),
    "visa": (visa, 4, 0, 2, {"bad": 2}),
    "kolektor": (kolektor, 3, 0, 2, {"bad": 1}),
    "kolektor2": (kolektor2, 2, 0, 2, {"bad": 1}),
    "dagm": (dagm, 2, 0, 2, {"bad": 1}),
    "magnetic-tile": (magnetic_tile, 3, 0, 2, {"Blowhole": 1, "Crack": 1}),
}
ALONE = [name for name in EXPECTED if name != "visa"]


def counts(samples: Samples) -> tuple[int, int, int, dict[str, int]]:
    test = samples.role(Role.TEST)
    kinds = [sample.kind for sample in test if sample.bad]
    return (
        len(samples.role(Role.TRAIN)),
        len(samples.role(Role.CALIBRATION)),
        sum(not sample.bad for sample in test),
        {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    )


@pytest.mark.parametrize("layout", EXPECTED)
@pytest.mark.parametrize("told", [True, False])
def test_each_is_recognised_and_read_whole(tmp_path: Path, layout: str, told: bool) -> None:
    draw, *expected = EXPECTED[layout]
    samples = read(draw(tmp_path / "set"), layout=layout if told else None)
    assert samples.layout == layout
    assert counts(samples) == tuple(expected)
    check_masks(samples)
    for sample in samples:
        assert sample.read().shape == (4, 6, 3)
        assert (sample.path, sample.kind == "good") == (tmp_path / "set" / sample.name, not sample.bad)
        marked = sample.read_mask((4, 6))
        assert marked is not None
        assert marked.any() == sample.bad


@pytest.mark.parametrize("layout", EXPECTED)
def test_a_list_of_it_is_the_same(tmp_path: Path, layout: str) -> None:
    samples = read(EXPECTED[layout][0](tmp_path / "set"))
    listed = tmp_path / "list.json"
    listed.write_text(list_text(samples, tmp_path / "set", tmp_path))
    again = read(listed)
    assert counts(again)[:3] == counts(samples)[:3]
    for one, other in zip(samples, again, strict=True):
        assert (other.name, other.role, other.klass) == (one.name, one.role, one.klass)
        np.testing.assert_array_equal(one.read_mask((4, 6)), other.read_mask((4, 6)))


@pytest.mark.parametrize("layout", ALONE)
def test_several_products_are_classes(tmp_path: Path, layout: str) -> None:
    draw = EXPECTED[layout][0]
    for product in ("one", "two"):
        draw(tmp_path / "set" / product)
    samples = read(tmp_path / "set")
    assert (samples.layout, samples.classes) == (layout, ("one", "two"))
    assert counts(samples.klass("two")) == tuple(EXPECTED[layout][1:])


@pytest.mark.parametrize("layout", ALONE)
def test_one_layout_is_never_taken_for_another(tmp_path: Path, layout: str) -> None:
    root = EXPECTED[layout][0](tmp_path / "set")
    for other in EXPECTED:
        if other != layout and (layout, other) != ("mvtec-3d", "mvtec"):  # its folders are those, and more
            with pytest.raises(LayoutError, match=f"does not have the layout {other}"):
                read(root, layout=other)


def test_several_masks_of_a_picture_are_one(tmp_path: Path) -> None:
    root = loco(tmp_path)
    first = next(sample for sample in read(root) if sample.bad)
    marked = first.read_mask((4, 6))
    assert marked is not None
    assert np.argwhere(marked).tolist() == [[0, 0], [3, 5]]
    write_png(root / "ground_truth/logical_anomalies/000/001.png", np.zeros((2, 2, 1), np.uint8))
    with pytest.raises(MaskError, match=r"001\.png is 2×2 pixels, but its picture is 6×4"):
        first.read_mask((4, 6))
    for name in ("000.png", "001.png"):
        (root / "ground_truth/logical_anomalies/000" / name).unlink()
    with pytest.raises(MaskError, match=r"logical_anomalies.000 is a folder without pictures"):
        first.read_mask((4, 6))


def test_one_product_of_visa_keeps_the_official_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = visa(tmp_path / "set")
    samples = read(root / "fryum")
    assert (samples.name, samples.layout, samples.classes) == ("fryum", "visa", ("",))
    assert counts(samples) == (2, 0, 1, {"bad": 1})
    assert samples[0].name == "Data/Images/Normal/000.JPG"
    monkeypatch.chdir(root / "fryum")
    assert summary(read(".")) == summary(samples)
    (root / "candle/Data/Images/Anomaly/000.png").unlink()
    (root / "candle/Data/Masks/Anomaly/000.png").unlink()
    with pytest.raises(DataError, match=r"2 files that .*1cls\.csv names are not there \(.*candle.Data.*"):
        read(root)
    for text in (
        b"object,image\nfryum,x.png\n",
        b"object,split,label,image,mask\nfryum\n",
        b"object\n\xff\n",
    ):
        (root / "split_csv/1cls.csv").write_bytes(text)
        with pytest.raises(LayoutError, match=r"1cls\.csv cannot be understood .*: give it as it was"):
            read(root)
    (root / "split_csv/1cls.csv").unlink()
    for folder in (root, root / "fryum"):
        with pytest.raises(LayoutError, match=r"looks like VisA, but there is no .*set.split_csv.1cls\.csv"):
            read(folder)


@pytest.mark.parametrize(
    ("draw", "lost", "told"),
    [
        (kolektor, "kos01/Part1_label.png", r"Part1.png has no label Part1_label beside it"),
        (kolektor2, "test/10001_GT.png", r"10001.png has no label 10001_GT beside it"),
        (kolektor2, "test/*_GT.png", r"test has no labels"),
        (dagm, "Test/Label/*", r"Test has no labels"),
    ],
)
def test_a_picture_whose_label_is_lost_is_not_called_good(
    tmp_path: Path, draw: Callable[[Path], Path], lost: str, told: str
) -> None:
    root = draw(tmp_path)
    for path in list(root.glob(lost)):
        path.unlink()
    with pytest.raises(DataError, match=f"{told}: unpack the data set again"):
        read(root)


def test_an_empty_label_marks_nothing(tmp_path: Path) -> None:
    root = dagm(tmp_path)
    label(root / "Train/Label/0000_label.PNG", None)
    label(root / "Test/Label/0002_label.PNG", None)
    assert counts(read(root)) == (2, 0, 2, {"bad": 1})


def test_no_item_of_kolektor_both_trains_and_tests(tmp_path: Path) -> None:
    for number in range(10):
        for part in range(3):
            picture(tmp_path / f"kos{number:02}/Part{part}.jpg")
            label(tmp_path / f"kos{number:02}/Part{part}_label.bmp", (1, 1) if part == number % 3 else None)
    good = [sample for sample in read(tmp_path) if not sample.bad]
    roles = {role: {sample.name[:5] for sample in good if sample.role is role} for role in Role}
    assert (len(roles[Role.TRAIN]), len(roles[Role.TEST])) == (7, 3)
    assert not roles[Role.TRAIN] & roles[Role.TEST]


def test_pictures_of_several_cameras_are_an_mvtec_folder(tmp_path: Path) -> None:
    for name in ("train/good/rgb/0.png", "train/good/ir/0.png", "test/scratch/0.png"):
        picture(tmp_path / name)
    assert read(tmp_path).layout == "mvtec"
    assert len(read(tmp_path)) == 3


@pytest.mark.parametrize(
    ("draw", "part"), [(kolektor, "kos01"), (kolektor2, "train"), (magnetic_tile, "MT_Free"), (visa, "..")]
)
def test_a_part_of_a_set_with_masks_in_it_is_no_folder_of_good_images(
    tmp_path: Path, draw: Callable[[Path], Path], part: str
) -> None:
    root = draw(tmp_path / "set")
    with pytest.raises(LayoutError, match=r"has the name of a mask of another|is no plain folder"):
        read(root / part)


def test_one_folder_of_masks_is_not_for_all_pictures(tmp_path: Path) -> None:
    for name in ("0", "1"):
        picture(tmp_path / f"{name}.png")
        label(tmp_path / f"marks/{name}.png")
    listed = tmp_path / "list.csv"
    listed.write_text("image,label,mask\n0.png,cut,marks\n1.png,cut,marks\n")
    with pytest.raises(MaskError, match=r"names 2 masks that do not exist"):
        read(listed)


def test_a_published_list_may_name_what_the_set_calls_test(tmp_path: Path) -> None:
    root = dagm(tmp_path / "set")
    (tmp_path / "list.txt").write_text("set/Train/0000.PNG\nset/Test/0002.PNG\n")
    found = find_published(read(root), root, tmp_path / "list.txt").samples
    assert {sample.name: sample.role for sample in found} == {
        "Train/0000.PNG": Role.TRAIN,
        "Test/0002.PNG": Role.TEST,
    }
