import csv
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish import load
from blemish.cli._places import whole_file
from blemish.images import read
from tests.cli.conftest import Blemish


@pytest.fixture
def parts(product: Path, tmp_path: Path) -> Path:
    """A good and a bad part, and three pictures that cannot be inspected."""
    folder = tmp_path / "parts"
    folder.mkdir()
    shutil.copy(product / "train/good/000.png", folder / "good.png")
    picture = cv2.imread(str(folder / "good.png"))
    picture[20:50, 20:50] = (0, 0, 255)
    cv2.imwrite(str(folder / "bad.png"), picture)
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:500])
    cv2.imwrite(str(folder / "grey.png"), np.zeros((64, 64), np.uint8))
    return folder


def test_one_record_a_picture(blemish: Blemish, product: Path, model: Path) -> None:
    done = blemish("inspect", model, product / "test")
    assert done.stderr == ""
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["image"] for record in records] == sorted(map(str, (product / "test").rglob("*.png")))
    inspector = load(model)
    for record in records:
        expected = inspector.inspect(record["image"]).record()
        assert list(record) == list(expected)
        assert record | {"ms": 0} == expected | {"ms": 0}


def test_unreadable_pictures_become_records_and_the_others_are_inspected(
    blemish: Blemish, model: Path, parts: Path
) -> None:
    done = blemish("inspect", model, "parts", "gone.png", code=3)
    records = {record["image"]: record for record in map(json.loads, done.stdout.splitlines())}
    errors = {name: record["error"] for name, record in records.items() if "error" in record}
    assert set(records) - set(errors) == {"parts/bad.png", "parts/good.png"}
    assert all(set(records[name]) == {"image", "error"} for name in errors)
    assert errors["parts/empty.png"].startswith("parts/empty.png is empty")
    assert errors["parts/cut.png"].startswith("parts/cut.png is damaged or cut off")
    assert errors["parts/grey.png"].startswith(
        "parts/grey.png is 8-bit grey, but this model was fitted on 8-bit"
    )
    assert errors["gone.png"].startswith("gone.png does not exist")
    assert done.stderr == "4 of 6 pictures could not be inspected: see field error.\n"


def test_csv_says_the_same(blemish: Blemish, model: Path, parts: Path) -> None:
    lines = blemish("inspect", model, "parts", code=3).stdout.splitlines()
    written = blemish("inspect", model, "parts", "--out", "out", "--format", "csv", code=3).stdout
    assert re.fullmatch(r"out/results.csv: \d accept, \d review, \d reject, 3 error\n", written)
    with (parts.parent / "out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for record, row in zip(map(json.loads, lines), rows, strict=True):
        if "error" in record:
            assert {key: value for key, value in row.items() if value} == record
            continue
        assert float(row["score"]) == record["score"]
        assert json.loads(row["regions"]) == record["regions"]
        assert (row["verdict"], row["nearest"], row["error"]) == (record["verdict"], record["nearest"], "")


def test_a_rejected_part_can_fail_the_command(blemish: Blemish, model: Path, parts: Path) -> None:
    good, bad, empty = (parts / f"{name}.png" for name in ("good", "bad", "empty"))
    assert json.loads(blemish("inspect", model, bad).stdout)["verdict"] == "reject"
    blemish("inspect", model, good, "--fail-on-reject")
    blemish("inspect", model, good, bad, "--fail-on-reject", code=1)
    blemish("inspect", model, bad, empty, "--fail-on-reject", code=3)


def test_heat_maps_have_names_of_their_own(
    blemish: Blemish, model: Path, product: Path, tmp_path: Path
) -> None:
    for folder in ("a/sub", "b/sub"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(product / "train/good/000.png", tmp_path / folder / "1.png")
    shutil.copy(product / "train/good/001.png", tmp_path / "a/1.PNG")
    # inspected twice, and what the first run wrote below a/ is not inspected in the second
    for _ in range(2):
        blemish("inspect", model, "a", "b", "a/sub/1.png", "--out", "a/out", "--heatmaps")
        lines = (tmp_path / "a/out/results.jsonl").read_text().splitlines()
        found = {record["image"]: record["heatmap"] for record in map(json.loads, lines)}
        assert found == {
            "a/1.PNG": "1_heatmap.png",
            "a/sub/1.png": "sub/1_heatmap.png",
            "b/sub/1.png": "sub/1-2_heatmap.png",
        }
    assert len(list((tmp_path / "a/out").rglob("*"))) == 5
    inspector, picture = load(model), tmp_path / "b/sub/1.png"
    expected = inspector.overlay(read(picture), inspector.inspect(picture))
    assert np.array_equal(read(tmp_path / "a/out/sub/1-2_heatmap.png"), expected)


def test_places_and_models_that_cannot_be_used(blemish: Blemish, model: Path, parts: Path) -> None:
    (parts.parent / "void").mkdir()
    told = blemish("inspect", model, "void", code=3).stderr
    assert told.startswith("Error: There are no pictures in void (no files)")
    told = blemish("inspect", model, "parts", "--out", "parts/good.png/out", code=2).stderr
    assert told.startswith("Error: The folder parts/good.png/out cannot be written to (Not a directory)")
    told = blemish("inspect", "gone.blemish", "parts", code=4).stderr
    assert told.startswith("Error: The model file gone.blemish does not exist")
    (parts.parent / "half.blemish").write_bytes(model.read_bytes()[:100_000])
    for verb in (["inspect", "half.blemish", "parts"], ["info", "half.blemish"]):
        assert "half.blemish is not a whole .blemish file" in blemish(*verb, code=4).stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_no_half_results(
    blemish: Blemish, model: Path, product: Path, tmp_path: Path
) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    told = blemish("inspect", model, product / "test", "--out", "out", code=2, preexec_fn=limit).stderr
    assert re.match(r"Error: out/results.jsonl could not be written \(File too large\): make room", told)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_without_a_score_costs_no_other(blemish: Blemish, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "new").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        np.save(tmp_path / f"good/{number}.npy", rng.random((32, 32, 3), np.float32))
    blemish("fit", "good", "--method", "knn", "--size", "32", "--out", "m.blemish")
    np.save(tmp_path / "new/a.npy", np.full((32, 32, 3), 3e38, np.float32))
    np.save(tmp_path / "new/b.npy", rng.random((32, 32, 3), np.float32))
    done = blemish("inspect", "m.blemish", "new", code=3)
    first, second = map(json.loads, done.stdout.splitlines())
    assert "could not be scored" in first["error"]
    assert second["verdict"]


def test_two_runs_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    place = tmp_path / "results.jsonl"
    with whole_file(place) as first, whole_file(place) as second:
        first.write("first\n")
        second.write("second\n" * 3)
    assert place.read_text() == "first\n"  # the one that ended last
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_what_is_inspected_is_never_replaced(
    blemish: Blemish, product: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a.png", "a_heatmap.png"):
        shutil.copy(product / "train/good/000.png", folder / name)
    before = (folder / "a_heatmap.png").read_bytes()
    paths = folder / "a.png", folder / "a_heatmap.png"
    told = blemish("inspect", model, *paths, "--out", "new", "--heatmaps", code=2).stderr
    assert told.startswith("Error: The heat map a_heatmap.png would replace a picture")
    assert (folder / "a_heatmap.png").read_bytes() == before
    assert "lie in --out" in blemish("inspect", model, "new", "--out", ".", code=3).stderr


def test_links_and_pipes_stay_what_they_are(
    blemish: Blemish, product: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    blemish("info", model, "--json", "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["method"] == load(model).manifest["method"]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/real.jsonl").touch()
    (tmp_path / "kept/results.jsonl").symlink_to("real.jsonl")
    blemish("inspect", model, product / "test/good", "--out", "kept")
    assert (tmp_path / "kept/results.jsonl").is_symlink()
    assert len((tmp_path / "kept/real.jsonl").read_text().splitlines()) == 3
    blemish("info", model, "--json", "/dev/null")
    assert Path("/dev/null").is_char_device()
