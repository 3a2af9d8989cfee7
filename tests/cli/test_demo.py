import json
from pathlib import Path

import numpy as np
import pytest

from blemish import load
from blemish.data import demo
from blemish.images import read
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


def test_pictures_alone(blemish: Blemish, tmp_path: Path) -> None:
    # All classes but one stand there already: 4200 pictures take half a minute.
    there = [klass for klass in demo.TEXTURES if klass != "cast"]
    demo.write_textures(tmp_path / "out/textures", size=32, classes=there, good=2, test=4)
    done = blemish("demo", "--only-pictures", "textures", "--out", "out", "--keep")
    told = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[2:]}
    assert told == {
        f"out/textures/{klass}": ["300", "60", "60"] if klass == "cast" else ["2", "4", "4"]
        for klass in demo.TEXTURES
    }
    cast = demo.render("cast/train/good", 299)
    assert np.array_equal(read(tmp_path / "out/textures/cast/train/good/299.png")[..., 0], cast.pixels)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["textures"]

    demo.write(tmp_path / "out/data", size=32, train=2, test_good=1, test_bad=4)
    done = blemish("demo", "--only-pictures", "products", "--out", "out", "--keep")
    assert [line.split() for line in done.stdout.splitlines()[2:]] == [
        [f"out/data/{product}", "2", "1", "4"] for product in demo.PRODUCTS
    ]
    told_off = blemish("demo", "--only-pictures", "products", "--json", "-", code=2).stderr
    assert told_off.startswith("Error: --only-pictures measures nothing that --json could write")
