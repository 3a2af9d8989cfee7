import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from blemish import data, load
from blemish.data import Role, demo
from tests.cli.conftest import SMALL, Blemish


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Three classes with 16 good images each to learn from."""
    demo.write_textures(tmp_path / "parts", size=64, classes=["canvas", "felt", "knurl"], good=16, test=4)
    return tmp_path / "parts"


def test_a_split_is_told_and_is_data_for_fit_and_eval(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    told = blemish(
        "split", "parts", "--long-tail", "exp8", "--out", "exp8.json", "--order", "felt,knurl,canvas"
    )
    assert told.stderr == ""
    lines = told.stdout.splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["felt", "16", "16", "High"],
        ["knurl", "16", "6", "High"],
        ["canvas", "16", "2", "Low"],
    ]
    split = data.read(tmp_path / "exp8.json")
    assert split.tail is not None
    assert lines[5:] == [
        "exp8.json: 24 of 48 training images, 12 good and 12 bad test images",
        "The largest class is 8 times the smallest",
        f"SHA-256 of the entries: {split.tail.sha256}",
    ]
    again = ("split", "parts", "--long-tail", "exp8", "--order", "felt,knurl,canvas")
    blemish(*again, "--out", "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "exp8.json").read_bytes()
    blemish(*again, "--seed", "1", "--out", "other.json")
    assert data.read(tmp_path / "other.json").tail != split.tail

    blemish("fit", "exp8.json", "--method", "knn", *SMALL)
    done = blemish("eval", "exp8.blemish", "exp8.json", "--json", "-")
    records = json.loads(done.stdout)["records"]
    assert [(record["class"], record["n_test"]) for record in records] == [
        ("canvas", 8),
        ("felt", 8),
        ("knurl", 8),
    ]
    assert all(record["pixel_auroc"] is not None for record in records)
    done = blemish("eval", "exp8.blemish", "exp8.json", "--report", "exp8.html")
    rows = [line.strip() for line in done.stdout.splitlines() if "mean" in line]
    assert [re.split(r"\s{2,}", row)[:2] for row in rows] == [
        ["mean, High", "16"],
        ["mean, Low", "8"],
        ["mean, fewer than 20", "24"],
        ["mean", "24"],
    ]
    page = (tmp_path / "exp8.html").read_text()
    assert all(f">{name}</th>" in page for name in ("mean, High", "mean, Low", "mean", "High − Low"))


def test_a_bench_of_a_list_tells_head_and_tail(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    blemish("split", "parts", "--long-tail", "step4", "--out", "step4.json")
    small = ("--set", "rows=50", "--size", "64")
    for together in ((), ("--together",)):
        blemish("bench", "step4.json", "--methods", "knn", *small, *together, "--json", "told.json")
        told = json.loads((tmp_path / "told.json").read_text())
        [group] = told["groups"]
        high, low = group["tail"]["high"]["classes"], group["tail"]["low"]["classes"]
        assert (len(high), len(low)) == (2, 1)
        of = {record["class"]: record["image_auroc"] for record in told["records"]}
        for name, classes in (("high", high), ("low", low)):
            found = group["tail"][name]["image_auroc"]["mean"]
            assert found == pytest.approx(sum(of[klass] for klass in classes) / len(classes))


def test_one_product_of_a_list(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    blemish("split", "parts", "--long-tail", "step4", "--out", "step4.json")
    done = blemish("fit", "step4.json", "--class", "felt", "--method", "knn", *SMALL)
    assert "of step4, felt alone: 16 images to learn from" in done.stdout
    model = load(tmp_path / "step4-felt.blemish")
    assert model.classes == ("felt",)
    done = blemish("eval", "step4-felt.blemish", "step4.json", "--class", "felt", "--json", "-")
    [record] = json.loads(done.stdout)["records"]
    assert (record["class"], record["n_test"]) == ("felt", 8)
    done = blemish("eval", "step4-felt.blemish", "step4.json", code=3)
    assert "has the class canvas, which step4-felt.blemish was not fitted on: name one of felt" in done.stderr
    done = blemish("fit", "step4.json", "--class", "bolt", code=2)
    assert done.stderr == "Error: step4 has no class bolt: choose among canvas, felt, knurl.\n"
    picture = next((parts / "felt/test/good").iterdir())
    blemish("fit", "step4.json", "--method", "knn", *SMALL)
    for klass in ("felt", "knurl"):
        done = blemish("inspect", "step4.blemish", picture, "--class", klass)
        assert json.loads(done.stdout)["class"] == klass
    done = blemish("inspect", "step4.blemish", picture, "--class", "bolt", code=2)
    assert "knows no class bolt: name one of canvas, felt, knurl" in done.stderr


def test_a_published_list(blemish: Blemish, parts: Path, tmp_path: Path) -> None:
    named = [f"canvas/train/good/{index:03d}.png" for index in range(5)] + ["felt/train/good/001.png"]
    gone = ["screw/train/good/000.png", "screw/train/good/001.png", "felt/train/good/099.png"]
    noise = ["canvas/test/slip/000.png"]
    listed = {"tailed_files": [*named, *gone, "knurl/test/good/000.png"], "noisy_files": noise}
    (tmp_path / "published.json").write_text(json.dumps(listed))
    done = blemish("split", "parts", "--list", "published.json", "--out", "mine.json")
    assert done.stderr.splitlines() == [
        "Warning: Not in parts: 3 of 11 entries of published.json, as screw/train/good/000.png, "
        "screw/train/good/001.png, felt/train/good/099.png: screw 2, felt 1",
        "Warning: Left out, for none of their training images was found: knurl",
        "Warning: Left out, for they are defective: 1 of the images that published.json learns from, as "
        "canvas/test/slip/000.png. Figures will not be those of the published split",
    ]
    found = data.read(tmp_path / "mine.json")
    assert sorted(sample.name for sample in found.role(Role.TRAIN)) == sorted(named)
    assert found.tail is not None
    assert (found.tail.kind, found.tail.groups) == ("published", (("canvas",), ("felt",)))
    assert done.stdout.splitlines()[-2] == "The largest class is 5 times the smallest"


def test_good_images_set_aside_for_testing_count_where_a_list_learns_from_them(
    blemish: Blemish, parts: Path, tmp_path: Path
) -> None:
    for klass in ("canvas", "felt"):
        (tmp_path / "others" / klass).mkdir(parents=True)
        (parts / klass / "train/good").rename(tmp_path / "others" / klass / "good")
        (parts / klass / "test/good").rename(tmp_path / "others" / klass / "bad")
    every = sorted((tmp_path / "others").glob("*/good/*"))
    (tmp_path / "all.txt").write_text("\n".join(f"{path.relative_to(tmp_path / 'others')}" for path in every))
    told = blemish("split", "others", "--list", "all.txt", "--out", "mine.json").stdout
    assert f": {len(every)} of {len(every)} training images" in told


def test_images_set_aside_are_left_out_and_that_is_told(blemish: Blemish, parts: Path) -> None:
    (parts / "felt/validation").mkdir()
    (parts / "felt/test/good").rename(parts / "felt/validation/good")
    done = blemish("split", "parts", "--long-tail", "step4", "--out", "step4.json")
    assert done.stderr == (
        "Warning: Left out: 4 images set aside for calibration; fit holds out some of those kept\n"
    )
    assert not data.read(parts.parent / "step4.json").role(Role.CALIBRATION)


BAD: dict[str, tuple[Sequence[str], int, str]] = {
    "neither": (["parts", "--out", "l.json"], 2, "Give either --long-tail KIND, to make a split, or --list"),
    "both": (
        ["parts", "--out", "l.json", "--long-tail", "exp2", "--list", "x"],
        2,
        "Give either --long-tail",
    ),
    "kind": (
        ["parts", "--out", "l.json", "--long-tail", "zipf"],
        2,
        "There is no long tail 'zipf': write exp",
    ),
    "order": (
        ["parts", "--out", "l.json", "--long-tail", "exp2", "--order", "felt,canvas"],
        2,
        "The order felt,canvas is none of the classes canvas,felt,knurl: name each of them once",
    ),
    "order of a list": (
        ["parts", "--out", "l.json", "--list", "p.json", "--order", "random"],
        2,
        "A published list has its own order and draw: leave --order and --seed out",
    ),
    "seed of a list": (
        ["parts", "--out", "l.json", "--list", "p.json", "--seed", "3"],
        2,
        "A published list has its own order and draw: leave --order and --seed out",
    ),
    "suffix": (
        ["parts", "--out", "l.csv", "--long-tail", "exp2"],
        2,
        "l.csv is no name for such a list: let it",
    ),
    "place": (["parts", "--out", "no/l.json", "--long-tail", "exp2"], 2, "no/l.json cannot be written"),
    "one class": (
        ["parts/felt", "--out", "l.json", "--long-tail", "exp2"],
        2,
        "felt has one class, and a long",
    ),
    "no data": (["gone", "--out", "l.json", "--long-tail", "exp2"], 3, "gone does not exist"),
    "no list": (
        ["parts", "--out", "l.json", "--list", "gone.txt"],
        3,
        "gone.txt cannot be read (No such file",
    ),
    "itself": (
        ["parts", "--out", "p.json", "--list", "p.json"],
        2,
        "p.json is read or written as something else",
    ),
    "nothing": (
        ["parts", "--out", "l.json", "--list", "p.json"],
        3,
        "None of the 1 entries of p.json, such as",
    ),
    "as data": (
        ["p.json", "--out", "l.json", "--long-tail", "exp2"],
        3,
        "p.json is a list as another program",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused(blemish: Blemish, parts: Path, tmp_path: Path, case: str) -> None:
    arguments, code, sentence = BAD[case]
    (tmp_path / "p.json").write_text('{"tailed_files": ["screw/train/good/000.png"]}')
    done = blemish("split", *arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: " + sentence)
    assert not (tmp_path / "l.json").exists()
