import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blemish.data import Role, Sample, read, read_foregrounds
from blemish.errors import DataError, MaskError, UsageError
from blemish.images import write_png

names = st.builds(
    "{}{}".format,
    st.sampled_from(["", "good/", "a/good/", "b/good/"]),
    st.sampled_from(["1", "2.5", "ü", "_"]),
)


def picture(path: Path, pixels: NDArray[np.uint8] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((4, 6, 3), 128, np.uint8) if pixels is None else pixels)
    return path


def sample(root: Path, name: str) -> Sample:
    return Sample(name=name, role=Role.TRAIN, bad=False, path=picture(root / name))


def marked(number: int) -> NDArray[np.bool_]:
    mask = np.zeros((4, 6), bool)
    mask.flat[number] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(st.sets(names, min_size=1, max_size=6), st.data())
def test_each_picture_gets_its_own_mask(drawn: set[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expected = {}
        for number, name in enumerate(sorted(drawn)):
            last = name.rpartition("/")[2]
            alone = sum(other.rpartition("/")[2] == last for other in drawn) == 1
            form = data.draw(st.sampled_from([name, last] if alone else [name]))
            end = data.draw(st.sampled_from(["", "_mask"])) + data.draw(
                st.sampled_from([".png", ".TIF", ".npy"])
            )
            expected[f"{name}.png"] = marked(number)
            mask = root / "masks" / f"{form}{end}"
            mask.parent.mkdir(parents=True, exist_ok=True)
            grey = marked(number).astype(np.uint8)  # black but for a pixel that is nearly so
            if end.endswith(".npy"):
                np.save(mask, grey)
            else:
                mask.write_bytes(cv2.imencode(mask.suffix.lower(), grey)[1].tobytes())
        picture(root / "masks" / "of another picture.png")
        found = read_foregrounds(root / "masks", [sample(root / "parts", name) for name in expected])
        assert list(found) == list(expected)
        assert all(np.array_equal(found[name], mask) for name, mask in expected.items())


CASES: dict[str, tuple[list[str], list[str], str]] = {
    "none": (
        ["good/1.png", "good/2.png", "good/3.png", "good/4.png", "good/5.png"],
        ["good/1.png"],
        r"^4 of 5 images have no foreground mask in .*masks \(good/2.png, good/3.png, good/4.png, …\): name "
        r"each mask after its image, here 2_mask.png.$",
    ),
    "same stem": (
        ["a/1.png", "b/1.png"],
        ["1.png", "a/1.png"],
        r"^1 of 2 .* \(b/1.png\): .* here b/1_mask.png.$",
    ),
    "two": (
        ["good/1.png"],
        ["1_mask.bmp", "good/1.png"],
        "good/1.png has two .*masks/1_mask.bmp and .*masks/good/1.png",
    ),
    "two suffixes": (["1.png"], ["1.png", "1.bmp"], "1.png has two foreground masks"),
    "shared": (["1.png", "1.bmp"], ["1.png"], "masks/1.png fits 1.png and 1.bmp: rename one of the images"),
}


@pytest.mark.parametrize("case", CASES)
def test_names_that_do_not_fit(tmp_path: Path, case: str) -> None:
    images, masks, sentence = CASES[case]
    for mask in masks:
        picture(tmp_path / "masks" / mask)
    samples = [sample(tmp_path / "parts", name) for name in images]
    with pytest.raises(MaskError, match=sentence):
        read_foregrounds(tmp_path / "masks", samples)


def test_a_picture_is_no_mask_of_its_own(tmp_path: Path) -> None:
    parts = [sample(tmp_path, f"good/{number}.png") for number in range(2)]
    picture(tmp_path / "good" / "0_mask.png", np.full((4, 6, 3), 9, np.uint8))
    with pytest.raises(MaskError, match=r"1 of 2 images have no foreground mask in .* \(good/1.png\)"):
        read_foregrounds(tmp_path, parts)
    assert read_foregrounds(tmp_path, parts[:1])["good/0.png"].all()


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    part = sample(tmp_path, "good/1.png")
    mask = picture(tmp_path / "masks" / "1.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(MaskError, match=r"1\.png is empty: mark the product in it"):
        read_foregrounds(mask.parent, [part])
    picture(mask, np.full((6, 4, 3), 255, np.uint8))
    with pytest.raises(
        MaskError, match="is 4×6 pixels, but its picture is 6×4: give a mask of the same size"
    ):
        read_foregrounds(mask.parent, [part])


def test_places_that_hold_no_masks(tmp_path: Path) -> None:
    part = sample(tmp_path, "good/1.png")
    with pytest.raises(DataError, match="nowhere does not exist: give the folder that holds the foreground"):
        read_foregrounds(tmp_path / "nowhere", [part])
    assert part.path
    with pytest.raises(DataError, match=r"1\.png is no folder: give the folder"):
        read_foregrounds(part.path, [part])
    with pytest.raises(UsageError, match=r"array-0000 is an array, but .* give the pictures as files"):
        read_foregrounds(tmp_path, read(np.zeros((2, 4, 6, 3), np.uint8)))
