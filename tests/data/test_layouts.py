import errno
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from blemish.data import LAYOUTS, Role, Samples, check_masks, duplicates, read
from blemish.errors import DataError, ImageError, LayoutError, MaskError, UsageError
from blemish.images import write_png


def picture(path: Path, grey: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((4, 6, 3), grey, np.uint8))
    return path


def mvtec(root: Path) -> Path:
    for name in ("train/good/000.png", "train/good/001.png", "validation/good/000.png", "test/good/000.png"):
        picture(root / name)
    picture(root / "test/cut/000.png")
    picture(root / "test/cut/001.png")
    picture(root / "ground_truth/cut/000_mask.png", 255)
    return root


def summary(samples: Samples) -> dict[str, tuple[str, str]]:
    return {sample.name: (sample.role.value, sample.kind) for sample in samples}


def test_mvtec_has_its_roles_kinds_and_masks(tmp_path: Path) -> None:
    samples = read(mvtec(tmp_path / "screw"))
    assert (samples.name, samples.layout, samples.classes) == ("screw", "mvtec", ("",))
    assert summary(samples) == {
        "train/good/000.png": ("train", "good"),
        "train/good/001.png": ("train", "good"),
        "validation/good/000.png": ("calibration", "good"),
        "test/cut/000.png": ("test", "cut"),
        "test/cut/001.png": ("test", "cut"),
        "test/good/000.png": ("test", "good"),
    }
    masks = {sample.name: sample.read_mask((4, 6)) for sample in samples.role(Role.TEST)}
    assert masks["test/cut/000.png"] is not None
    assert masks["test/cut/000.png"].all()
    assert masks["test/cut/001.png"] is None
    assert masks["test/good/000.png"] is not None
    assert not masks["test/good/000.png"].any()
    assert samples[0].read().shape == (4, 6, 3)


@pytest.mark.parametrize("mask", ["000.png", "000_mask.png"])
def test_mvtec_masks_have_either_name(tmp_path: Path, mask: str) -> None:
    root = mvtec(tmp_path)
    (root / "ground_truth/cut/000_mask.png").rename(root / "ground_truth/cut" / mask)
    assert {s.name: s.mask for s in read(root)}["test/cut/000.png"] == root / "ground_truth/cut" / mask


def test_several_products_are_read_together(tmp_path: Path) -> None:
    mvtec(tmp_path / "nut")
    mvtec(tmp_path / "screw")
    (tmp_path / "readme.txt").write_text("…")
    samples = read(tmp_path)
    assert samples.classes == ("nut", "screw")
    assert "screw/test/cut/000.png" in summary(samples.klass("screw"))
    assert len(samples.klass("nut")) == len(read(tmp_path / "nut"))
    picture(tmp_path / "loose" / "a.png")
    with pytest.raises(LayoutError, match=r"loose is not arranged as nut beside it.*move it elsewhere"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "loose")
    (tmp_path / "bolt" / "train" / "good").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"There are no pictures in .*bolt \(no files\)"):
        read(tmp_path)


def test_test_images_alone_are_enough_to_measure_with(tmp_path: Path) -> None:
    for name in ("nut", "screw"):
        root = mvtec(tmp_path / name)
        for split in ("train", "validation"):
            shutil.rmtree(root / split)
    assert {sample.role for sample in read(tmp_path)} == {Role.TEST}
    assert read(tmp_path / "nut").classes == ("",)
    picture(tmp_path / "nut" / "more" / "a.png")
    with pytest.raises(LayoutError, match=r"nut is not arranged as screw beside it"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("good", "bad"), [("good", "bad"), ("OK", "NG"), ("ok", "KO"), ("Normal", "abnormal")]
)
def test_good_bad(tmp_path: Path, good: str, bad: str) -> None:
    for number in range(10):
        picture(tmp_path / good / f"{number}.png")
    picture(tmp_path / bad / "plain.png")
    picture(tmp_path / bad / "dent" / "deep.jpg.png")
    picture(tmp_path / "masks" / "dent" / "deep.jpg.png", 255)
    picture(tmp_path / "masks" / bad / "plain_mask.png", 255)
    samples = read(tmp_path)
    assert samples.layout == "good-bad"
    kinds = {sample.kind: sample for sample in samples if sample.bad}
    assert set(kinds) == {"bad", "dent"}
    assert all(sample.role is Role.TEST and sample.mask for sample in kinds.values())
    good_for_test = [sample.name for sample in samples if not sample.bad and sample.role is Role.TEST]
    assert len(good_for_test) == 3
    assert good_for_test == [s.name for s in read(tmp_path) if not s.bad and s.role is Role.TEST]


@pytest.mark.parametrize(("good", "for_test"), [(3, 0), (4, 1), (5, 2)])
def test_few_good_images_are_spared(tmp_path: Path, good: int, for_test: int) -> None:
    for number in range(good):
        picture(tmp_path / "good" / f"{number}.png")
    assert len(read(tmp_path).role(Role.TRAIN)) == good
    picture(tmp_path / "bad" / "0.png")
    assert sum(not sample.bad for sample in read(tmp_path).role(Role.TEST)) == for_test


def test_a_folder_of_good_images_in_any_arrangement(tmp_path: Path) -> None:
    names = ["10.png", "2.PNG", "line 1/ä ö/部品.png", "line 1/b.png", "n" * 200 + ".png"]
    for name in names:
        picture(tmp_path / name)
    for junk in (".hidden.png", "__MACOSX/2.png", ".cache/3.png"):
        picture(tmp_path / junk)
    (tmp_path / "Thumbs.db").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    samples = read(str(tmp_path))
    assert samples.layout == "folder"
    assert [sample.name for sample in samples] == sorted(names)
    assert {sample.role for sample in samples} == {Role.TRAIN}


def test_links_are_followed_and_loops_survived(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "b.png")
    root = tmp_path / "data"
    picture(root / "sub" / "a.png")
    try:
        (root / "sub" / "up").symlink_to(root, target_is_directory=True)
        (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (root / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
        (root / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    except OSError:
        pytest.skip("this system does not let us make links")
    samples = read(root)
    assert [sample.name for sample in samples] == ["c.png", "dangling.png", "linked/b.png", "sub/a.png"]
    with pytest.raises(ImageError, match=r"dangling\.png is a link to nothing: check the path"):
        samples[1].read()
    assert not duplicates(samples)


def test_thousands_of_files_are_listed_quickly(tmp_path: Path) -> None:
    for part in range(10):
        (tmp_path / f"{part}").mkdir()
        for number in range(500):
            (tmp_path / f"{part}" / f"{number}.png").touch()
    start = time.process_time()
    samples = read(tmp_path)
    assert len(samples) == 5000
    assert time.process_time() - start < 2  # far above what it takes, for slow machines


def test_arrays_and_paths(tmp_path: Path) -> None:
    grey = np.zeros((5, 4), np.uint16)
    path = picture(tmp_path / "a.png")
    samples = read([grey, path, str(picture(tmp_path / "b.png"))])
    assert [s.name for s in samples] == ["array-0000", path.as_posix(), (tmp_path / "b.png").as_posix()]
    assert samples[0].read().shape == (5, 4, 1)
    assert samples[0].read().dtype == np.uint16
    assert samples.layout == "arrays"
    assert len(read(np.zeros((7, 5, 4, 3), np.uint8))) == 7


def test_one_product_is_called_as_its_folder(tmp_path: Path) -> None:
    samples = read(mvtec(tmp_path / "nut"))
    assert samples.only("nut").classes == ("nut",)
    assert len(samples.only("nut")) == len(samples)
    with pytest.raises(UsageError, match=r"nut has no class bolt: it is of one product, nut\."):
        samples.only("bolt")


def test_samples_are_a_sequence(tmp_path: Path) -> None:
    samples = read(mvtec(tmp_path))
    assert isinstance(samples[1:3], Samples)
    assert list(samples[1:3]) == [samples[1], samples[2]]
    assert samples[-1] in samples
    assert samples.index(samples[2]) == 2


def test_a_layout_can_be_forced(tmp_path: Path) -> None:
    root = tmp_path / "parts"
    picture(root / "good" / "a.png")
    assert read(root).layout == "good-bad"
    assert read(root, layout="folder").layout == "folder"
    with pytest.raises(LayoutError, match="does not have the layout mvtec, which is train/good"):
        read(root, layout="mvtec")
    with pytest.raises(UsageError, match=f"no layout 'mvtek': choose one of {', '.join(LAYOUTS)}"):
        read(root, layout="mvtek")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"nowhere does not exist: check"):
        read(tmp_path / "nowhere")


def test_a_file_that_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"a\.png is no list \(\.csv, \.jsonl, \.json\): give a folder"):
        read(picture(tmp_path / "a.png"))


@pytest.mark.parametrize("folder", ["", "train/good"])
def test_no_pictures(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(LayoutError, match=r"There are no pictures in .*no files"):
        read(tmp_path)
    for number in range(3):
        (tmp_path / folder / f"{number}.raw").touch()
    with pytest.raises(LayoutError, match=r"\(3 × \.raw\): add some with the suffix .*\.png"):
        read(tmp_path)


@pytest.mark.parametrize("half", ["test/good", "ground_truth/cut", "line/bad"])
def test_half_a_layout_is_no_folder_of_good_images(tmp_path: Path, half: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / half / "b.png")
    with pytest.raises(
        LayoutError, match=f"no plain folder of good images.*{half.split('/')[1 if 'line' in half else 0]}/"
    ):
        read(tmp_path)


def test_pictures_beside_good_and_bad(tmp_path: Path) -> None:
    picture(tmp_path / "good" / "a.png")
    picture(tmp_path / "dent" / "b.png")
    with pytest.raises(LayoutError, match=r"in dent/: move defective ones to bad/dent"):
        read(tmp_path)


@pytest.mark.parametrize("stray", ["train/b.png", "train/dent/b.png", "validation/b.png", "test/b.png"])
def test_pictures_beside_what_mvtec_has(tmp_path: Path, stray: str) -> None:
    picture(mvtec(tmp_path) / stray)
    with pytest.raises(LayoutError, match=rf"{stray} nothing is known: move good pictures to train/good"):
        read(tmp_path)


def test_masks_that_fit_no_picture(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    (root / "ground_truth/cut/000_mask.png").rename(root / "ground_truth/cut/000_truth.png")
    with pytest.raises(
        MaskError, match=r"1 of 1 masks fit no picture.*cut/000_mask\.png for test/cut/000\.png"
    ):
        read(root)


def test_a_good_image_with_a_defect_in_its_mask(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    mask = picture(root / "ground_truth/good/000_mask.png", 0)
    check_masks(read(root))
    picture(mask, 255)
    with pytest.raises(DataError, match=r"test/good/000\.png counts as good, but its mask 000_mask\.png"):
        check_masks(read(root))


def test_sequences_that_hold_no_images(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="holds no images"):
        read([])
    with pytest.raises(DataError, match=r"gone\.png is no file: check the paths"):
        read([tmp_path / "gone.png"])
    with pytest.raises(DataError, match=r"a\.png is given 2 times"):
        read([picture(tmp_path / "a.png"), tmp_path / "a.png"])
    with pytest.raises(DataError, match=r"shape \(9, 9, 3\) is no sequence.*in a list"):
        read(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ImageError, match="array-0000 holds int64 values"):
        read([np.zeros((9, 9), np.int64)])


@pytest.mark.parametrize("layout", [None, "folder"])
def test_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str | None
) -> None:
    picture(tmp_path / "a" / "a.png")

    def refused(folder: Path) -> None:  # by hand, for root may list everything
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr("blemish.data.folders.os.scandir", refused)
    with pytest.raises(LayoutError, match=r"cannot be listed \(Permission denied\): make it readable"):
        read(tmp_path, layout=layout)


@pytest.mark.parametrize("word", ["OK", "normal", "Good"])
def test_good_test_images_by_any_name(tmp_path: Path, word: str) -> None:
    for name in ("train/good/0.png", "train/good/1.png", f"test/{word}/0.png", "test/cut/0.png"):
        picture(tmp_path / name)
    test = read(tmp_path).role(Role.TEST)
    assert {sample.kind: sample.bad for sample in test} == {"good": False, "cut": True}
