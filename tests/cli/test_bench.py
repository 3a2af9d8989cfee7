import json
import shutil
from pathlib import Path

from blemish.evaluate.evaluation import FIELDS
from tests.cli.conftest import Blemish


def test_bench_fits_and_measures_each_job_and_goes_on_where_it_was(
    blemish: Blemish, product: Path, tmp_path: Path
) -> None:
    command = ["bench", product, "--methods", "knn,reb", "--size", "64", "--set", "rows=50"]
    done = blemish(*command, "--set", "reb.alpha=0", "--markdown", "table.md")
    assert done.stdout == (tmp_path / "table.md").read_text()
    assert [line.split("|")[2].strip() for line in done.stdout.splitlines()[2:]] == [
        "knn · fast · lite0",
        "reb · fast · lite0",
    ]
    told = json.loads((tmp_path / "bench.json").read_text())
    knn, reb = told["records"]
    assert set(knn) == set(FIELDS)
    # With no density taken off, the one method is the other.
    assert knn["image_auroc"] == reb["image_auroc"]
    assert knn["peak_rss_mb"] > 100

    more = blemish(*command, "--set", "reb.alpha=0", "--seeds", "0,1")
    again = json.loads((tmp_path / "bench.json").read_text())["records"]
    assert [record["seed"] for record in again] == [0, 1, 0, 1]
    assert again[0] == knn
    assert again[2] == reb
    assert "±" in more.stdout


def test_what_cannot_work_is_refused_before_any_job(blemish: Blemish, product: Path, tmp_path: Path) -> None:
    refusals = {
        ("--presets", "slow"): "The method reb has no preset 'slow'",
        ("--seeds", "0,x"): "'0,x' is no list of whole numbers",
        ("--set", "reb.foo=1"): "The method reb has no option 'foo'",
        ("--set", "knn.rows=1"): "--set knn.rows=1 is for a method that is not among --methods reb",
        ("--json", "none/b.json"): "none/b.json cannot be written",
    }
    for option, message in refusals.items():
        assert blemish("bench", product, *option, code=2).stderr.startswith(f"Error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_fails_is_told(blemish: Blemish, product: Path, tmp_path: Path) -> None:
    done = blemish("bench", product, "--backbone", "resnet18", "--json", "-", code=3)
    [failed] = json.loads(done.stdout)["failed"]
    assert failed["error"].startswith("The backbone resnet18 comes without weights")
    assert done.stderr == "1 of 1 jobs failed; the same command tries them again.\n"
    assert list(tmp_path.iterdir()) == []


def test_other_pictures_under_the_same_name_are_measured_anew(
    blemish: Blemish, product: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(product, tmp_path / "parts")
    command = ["bench", "parts", "--methods", "knn", "--size", "64"]
    blemish(*command)
    [first] = json.loads((tmp_path / "bench.json").read_text())["records"]
    next((copy / "test/good").iterdir()).unlink()
    blemish(*command)
    [second] = json.loads((tmp_path / "bench.json").read_text())["records"]
    assert second["n_test"] == first["n_test"] - 1
