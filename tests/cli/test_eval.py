import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish import data, load
from blemish.evaluate import evaluate
from blemish.evaluate.evaluation import COSTS, FIELDS
from tests.cli.conftest import Blemish


def test_what_is_printed_is_what_is_measured(
    blemish: Blemish, product: Path, model: Path, tmp_path: Path
) -> None:
    done = blemish("eval", model, product, "--json", "e.json", "--report", "e.html")
    assert done.stderr == ""
    told = json.loads((tmp_path / "e.json").read_text())
    assert (told["schema"], set(told)) == (1, {"schema", "records", "mean"})
    [record] = told["records"]
    assert list(record) == list(FIELDS)
    [expected] = evaluate(load(model), data.read(product)).records
    assert {key: record[key] for key in FIELDS if key not in COSTS} == {
        key: expected[key] for key in FIELDS if key not in COSTS
    }
    row = done.stdout.splitlines()[-1].split()
    assert row[:3] == ["gear", "7", f"{record['image_auroc']:.4g}"]
    assert "<!doctype html>" in (tmp_path / "e.html").read_text()
    assert json.loads(blemish("eval", model, product, "--json", "-").stdout)["schema"] == 1


def a_mask_of_another_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "ground_truth/dent/000_mask.png"), np.full((9, 9), 255, np.uint8))


def a_good_image_with_a_mask(folder: Path) -> None:
    (folder / "ground_truth/good").mkdir()
    cv2.imwrite(str(folder / "ground_truth/good/000_mask.png"), np.full((64, 64), 255, np.uint8))


BAD_DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "mask size": (
        a_mask_of_another_size,
        "000_mask.png is 9×9 pixels, but its picture is 64×64: give a mask",
    ),
    "good with mask": (a_good_image_with_a_mask, "test/good/000.png counts as good, but its mask"),
    "no test images": (lambda folder: shutil.rmtree(folder / "test"), "copy has no test images: add some"),
    "unreadable": (lambda folder: (folder / "test/good/x.png").touch(), "test/good/x.png is empty"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_used(
    blemish: Blemish, product: Path, model: Path, tmp_path: Path, case: str
) -> None:
    spoil, message = BAD_DATA[case]
    spoil(shutil.copytree(product, tmp_path / "copy"))
    done = blemish("eval", model, "copy", "--json", "e.json", code=3)
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert not (tmp_path / "e.json").exists()


def test_places_are_tried_first(blemish: Blemish, model: Path) -> None:
    for option in ("--json", "--report"):
        told = blemish("eval", model, "nowhere", option, "none/file", code=2).stderr
        assert told.startswith("Error: none/file cannot be written (No such file or directory)")


def test_images_that_the_model_was_fitted_on(blemish: Blemish, product: Path, tmp_path: Path) -> None:
    """Roles move when bad parts are added later: what was learnt from is then no test."""
    good = tmp_path / "parts/good"
    shutil.copytree(product / "train/good", good)
    blemish("fit", "parts", "--method", "knn", "--size", "64", "--out", "m.blemish")
    shutil.copytree(product / "test/dent", tmp_path / "parts/bad")
    test = data.read(tmp_path / "parts").role(data.Role.TEST)
    again = [sample.name for sample in test if not sample.bad]
    told = blemish("eval", "m.blemish", "parts").stderr
    assert told.startswith(f"Warning: {len(again)} test images are also learnt from, and so measured as too")
    assert again[0] in told
    assert again
    assert blemish("eval", "m.blemish", product).stderr == ""


def test_what_is_read_is_not_written_over(
    blemish: Blemish, product: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copy(model, tmp_path / "m.blemish")
    (tmp_path / "bench.json").write_text("[]")
    before = (tmp_path / "m.blemish").read_bytes()
    for command in (
        ("eval", "m.blemish", product, "--report", "m.blemish"),
        ("eval", "m.blemish", "bench.json", "--json", "bench.json"),
        ("eval", "m.blemish", product, "--json", "new", "--report", "new"),
        ("info", "m.blemish", "--json", "./m.blemish"),
        ("bench", "bench.json"),
        ("fit", product, "--out", "new.blemish", "--json", "new.blemish"),
    ):
        told = blemish(*command, code=2).stderr
        assert "is read or written as something else, too: choose another name" in told
    assert "A report is a page" in blemish("eval", "m.blemish", product, "--report", "-", code=2).stderr
    assert (tmp_path / "m.blemish").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "m.blemish"]
