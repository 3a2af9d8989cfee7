import json
from pathlib import Path

import pytest

from blemish import load
from blemish.data import demo
from tests.cli.conftest import Blemish


@pytest.mark.slow
def test_demo_leaves_a_model_a_report_and_heat_maps_of_each_product(blemish: Blemish, tmp_path: Path) -> None:
    # Pictures that stand there already keep the test short; `demo.write` has tests of its own.
    demo.write(tmp_path / "out/data", size=64, train=25, test_good=2, test_bad=4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/data").rglob("*.png")}
    done = blemish("demo", "--out", "out", "--keep", "--json", "told.json")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/data").rglob("*.png")} == before
    told = json.loads((tmp_path / "told.json").read_text())
    for product in demo.PRODUCTS:
        assert f"\n{product} " in done.stdout
        assert told[product]["mean"]["n_test"] == 6
        assert load(tmp_path / f"out/{product}.blemish").manifest["dataset"] == product
        assert "<!doctype html>" in (tmp_path / f"out/{product}.html").read_text()
        assert len((tmp_path / f"out/{product}/results.jsonl").read_text().splitlines()) == 6
        assert len(list((tmp_path / f"out/{product}").rglob("*_heatmap.png"))) == 6
    places = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("out/")]
    assert len(places) == 4
    assert all((tmp_path / place).exists() for place in places)
