import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.cli.synth import LONGEST, Sheet
from blemish.data import demo
from blemish.defects import MAKERS, Source, foreground, foregrounds, make
from blemish.images import read, resize, resize_mask, write_png
from tests.cli.conftest import ENVIRONMENT, Blemish
from tests.test_docs import listed, page, section


@pytest.fixture
def parts(product: Path, tmp_path: Path) -> Path:
    """Ten good images to train on, one to calibrate with; test images that cannot be read."""
    folder = tmp_path / "parts"
    for number in range(11):
        role = "train" if number < 10 else "validation"
        (folder / role / "good").mkdir(parents=True, exist_ok=True)
        shutil.copy(product / f"train/good/{number:03d}.png", folder / role / "good")
    for kind in ("good", "dent"):
        (folder / "test" / kind).mkdir(parents=True)
        (folder / "test" / kind / "000.png").write_text("not to be opened")
    return folder


def pictures(folder: Path, size: tuple[int, int] = (64, 64)) -> NDArray[np.uint8]:
    return np.stack([resize(read(path), size) for path in sorted(folder.rglob("good/0*.png"))])


def check(
    out: Path, source: Source, maker: str, count: int, *, seed: int, augment: bool
) -> list[dict[str, object]]:
    """What lies in the folder is what the maker draws, view by view."""
    records = [json.loads(line) for line in (out / "synth.jsonl").read_text().splitlines()]
    assert [(record["index"], record["label"]) for record in records] == [
        (index, label) for index in range(count) for label in MAKERS[maker].labels
    ]
    labels = MAKERS[maker].labels
    for at, record in enumerate(records):
        index, column = divmod(at, len(labels))
        draw = make(maker, source, index, seed=seed, epoch=0, augment=augment)
        assert (record["maker"], record["seed"], record["epoch"]) == (maker, seed, 0)
        assert np.array_equal(read(out / record["image"]), draw.views[1 + column])
        mask = read(out / record["mask"])
        assert np.array_equal(mask, np.repeat(draw.masks[1 + column][..., None], 3, axis=2) * np.uint8(255))
    files = {"sheet.png", "synth.jsonl"} | {
        str(record[key]) for record in records for key in ("image", "mask")
    }
    assert {path.name for path in out.iterdir()} == files
    return records


def test_every_view_is_the_makers_and_is_told(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = blemish("synth", "parts", "--size", "64", "--count", "12", "--seed", "5", env=environment)
    assert done.stderr == ""
    assert done.stdout == (
        "synth-out/sheet.png: 12 draws by dm6 on images of parts\nForeground: estimated\n".replace(
            "/", os.sep
        )
    )
    good = pictures(parts / "train")[:10]
    good = np.concatenate([good, pictures(parts / "validation")])
    masks = np.stack([foreground(picture).mask for picture in good])
    records = check(tmp_path / "synth-out", Source(good, masks), "dm6", 12, seed=5, augment=True)
    names = [f"train/good/{number:03d}.png" for number in range(10)] + ["validation/good/010.png"]
    assert [record["source"] for record in records[::6]] == [*names, names[0]]
    assert records[0]["image"] == "000_bezier-cut.png"
    documented = {name for name in listed(section(page("cli"), "blemish synth")) if name.islower()}
    assert {name for name in documented if name.isidentifier()} == set(records[0])


def test_masks_of_ones_own_and_images_as_they_are(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    own = np.zeros((11, 64, 64), bool)
    for number, mask in enumerate(own):
        mask[20 : 30 + number, 15:40] = True
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_png(
            tmp_path / "masks" / f"{number:03d}_mask.png", mask[..., None].repeat(3, 2).astype(np.uint8)
        )
    size = (48, 96)
    options = ("--maker", "scar2", "--count", "2", "--size", "48x96", "--no-augment")
    done = blemish("synth", "parts", *options, "--foreground", "masks", "--out", "there")
    assert done.stdout.endswith("\nForeground: given\n")
    good = np.concatenate([pictures(parts / role, size) for role in ("train", "validation")])
    masks = np.stack([resize_mask(mask, size) for mask in own])
    check(tmp_path / "there", Source(good, masks), "scar2", 2, seed=0, augment=False)


def test_fractals_are_drawn_as_finely_as_the_images_were(
    blemish: Blemish, parts: Path, tmp_path: Path
) -> None:
    done = blemish("synth", "parts", "--maker", "fractal", "--count", "3", "--size", "48", "--no-augment")
    assert done.stdout.startswith("synth-out/sheet.png: 3 draws by fractal".replace("/", os.sep))
    good = np.concatenate([pictures(parts / role, (48, 48)) for role in ("train", "validation")])
    masks = np.stack([foreground(picture).mask for picture in good])
    native = min(read(parts / "train/good/000.png").shape[:2])
    assert native > 48
    source = Source(good, masks, native=native)
    check(tmp_path / "synth-out", source, "fractal", 3, seed=0, augment=False)


def test_the_sheet_shows_each_view_in_its_place(blemish: Blemish, tmp_path: Path) -> None:
    demo.write(tmp_path, size=64, train=2, test_good=1, test_bad=1, products=["weave"])
    done = blemish("synth", "weave", "--maker", "cut3", "--count", "3", "--size", "64")
    assert done.stdout.endswith("\nForeground: the whole picture, for no object stands out\n")
    shown = read(tmp_path / "synth-out/sheet.png")
    view = Sheet((64, 64), ["picture", *MAKERS["cut3"].labels], 3).view
    found = []
    for index in range(3):
        for label in MAKERS["cut3"].labels:
            name = f"synth-out/{index:03d}_{label.replace('/', '-')}.png"
            distance = cv2.matchTemplate(shown, resize(read(tmp_path / name), view), cv2.TM_SQDIFF_NORMED)
            assert distance.min() < 1e-6, name
            found.append(divmod(int(distance.argmin()), distance.shape[1]))
    rows, columns = (np.array(found).reshape(3, 3, 2)[..., axis] for axis in (0, 1))
    assert (np.ptp(rows, axis=1) == 0).all()
    assert (np.diff(rows[:, 0]) > view[0]).all()
    assert (np.ptp(columns, axis=0) == 0).all()
    assert (np.diff(columns[0]) > 1.5 * view[1]).all()


@pytest.mark.parametrize("shape", [(256, 256), (32, 32), (224, 640), (900, 64), (32, 2000)])
@pytest.mark.parametrize("maker", ["dm6", "draem2"])
def test_a_sheet_of_any_shape_fits_a_screen(shape: tuple[int, int], maker: str) -> None:
    for rows in (1, 8, 12):
        sheet = Sheet(shape, ["picture", *MAKERS[maker].labels], rows)
        images = np.zeros((1, *shape, 3), np.uint8)
        draw = make(maker, Source(images), 0, seed=0, epoch=0)
        for index in range(rows):
            sheet.add(f"{index:03d}   {'long/' * 99}", images[0], np.ones(shape, bool), draw)
        assert max(sheet.pixels.shape) <= LONGEST
        assert sheet.top == sheet.pixels.shape[0]


def test_the_median_decides_whether_estimates_are_trusted(tmp_path: Path) -> None:
    demo.write(tmp_path, size=96, train=2, test_good=1, test_bad=1, products=["gear", "weave"])
    gears, weaves = (pictures(tmp_path / product / "train", (96, 96)) for product in ("gear", "weave"))
    trusted = foregrounds(np.stack([*gears, weaves[0]]))
    assert trusted is not None
    assert np.array_equal(trusted[:2], [foreground(gear).mask for gear in gears])
    assert trusted[2].all()
    assert foregrounds(np.stack([gears[0], *weaves])) is None


def mask_corners(parts: Path) -> None:
    for number in range(11):
        corner = np.zeros((64, 64, 3), np.uint8)
        corner[-1, -1] = 255
        (parts.parent / "masks").mkdir(exist_ok=True)
        write_png(parts.parent / f"masks/{number:03d}.png", corner)


def only_test_images(parts: Path) -> None:
    names = "\n".join(f"{path},good,test" for path in sorted(parts.rglob("train/good/*.png")))
    (parts.parent / "list.csv").write_text(f"image,label,split\n{names}\n")


def cut_one_off(parts: Path) -> None:
    (parts / "train/good/003.png").write_bytes((parts / "train/good/003.png").read_bytes()[:99])


BAD: dict[str, tuple[Callable[[Path], None] | None, Sequence[str], int, str]] = {
    "maker": (None, ["parts", "--maker", "dm7"], 2, "There is no defect maker 'dm7': choose among dm6, cut3"),
    "size": (None, ["parts", "--size", "16"], 2, "--size is '16': give at least 32 pixels a side"),
    "nothing": (None, ["gone"], 3, "gone does not exist"),
    "no good": (only_test_images, ["list.csv"], 3, "There are no good images to paint on in list: add some"),
    "unreadable": (
        cut_one_off,
        ["parts"],
        3,
        "1 of 11 good images cannot be read; mend or remove them, or leave",
    ),
    "no masks": (
        None,
        ["parts", "--foreground", "gone"],
        3,
        "gone does not exist: give the folder that holds",
    ),
    "other masks": (None, ["parts", "--foreground", "."], 3, "11 of 11 images have no foreground mask in ."),
    "out": (None, ["parts", "--out", "parts/out"], 2, "parts/out lies in parts, where painted defects would"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused(blemish: Blemish, parts: Path, case: str) -> None:
    spoil, arguments, code, sentence = BAD[case]
    if spoil:
        spoil(parts)
    done = blemish("synth", *arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: " + sentence)
    assert not list(parts.parent.rglob("synth.jsonl"))


def test_of_what_is_given_one_product_and_what_can_be_read(
    blemish: Blemish, parts: Path, tmp_path: Path
) -> None:
    cut_one_off(parts)
    shutil.copytree(parts, tmp_path / "all/nut")
    shutil.copytree(parts, tmp_path / "all/bolt")
    done = blemish("synth", "all", "--skip-bad", "--count", "4", "--maker", "blob2", "--size", "48")
    warning, left_out = done.stderr.splitlines()
    assert warning == "Warning: Of 2 products only 'bolt' is painted on: give the images of one."
    assert left_out.startswith("Left out: ")
    records = map(json.loads, (tmp_path / "synth-out/synth.jsonl").read_text().splitlines())
    sources = sorted({record["source"] for record in records})
    assert sources == [f"bolt/train/good/{number:03d}.png" for number in (0, 1, 2, 4)]


def test_a_foreground_in_a_corner_has_defects_beside_it(blemish: Blemish, parts: Path) -> None:
    mask_corners(parts)
    blemish("synth", "parts", "--foreground", "masks", "--size", "64", "--out", "painted")
    assert len(list((parts.parent / "painted").rglob("*.png"))) > 1
