import json
from dataclasses import fields
from pathlib import Path

from blemish import load
from blemish.methods import method_class, method_names
from tests.cli.conftest import Blemish
from tests.test_docs import listed, page, section


def test_methods_are_told_from_their_own_files(blemish: Blemish) -> None:
    listed = blemish("methods").stdout
    told = json.loads(blemish("methods", "--json", "-").stdout)
    assert [method["name"] for method in told] == method_names()
    for method in told:
        config = method_class(method["name"]).Config
        assert f"\n{method['name']} " in listed
        assert {option["name"]: option["default"] for option in method["options"]} == {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in fields(config)
        }
        assert all(option["help"] for option in method["options"])
    knn, told_of_knn = method_class("knn"), blemish("methods", "knn").stdout
    assert "arXiv 2106.08265" in told_of_knn
    told_of_rows = (
        f"--rows INTEGER  [default: {knn.Config().rows}]\n      The most patch vectors to remember,"
    )
    assert told_of_rows in told_of_knn
    assert f"  full: rows {knn.presets['full']['rows']}\n" in told_of_knn


def test_the_manifest_is_documented(model: Path) -> None:
    assert listed(section(page("model-file"), "Manifest")) == set(load(model).manifest)


def test_info_says_what_the_file_says(blemish: Blemish, model: Path) -> None:
    told = json.loads(blemish("info", model, "--json", "-").stdout)
    assert told == json.loads(json.dumps(load(model).info()))
    text = blemish("info", model).stdout
    assert text.startswith("reb, preset fast, backbone lite0, of gear: 24 images to learn from")
    assert told["calibration"]["statement"] in text
    for name, value in (("config.rows", "50"), ("size", "64, 64"), ("format.dtype", "uint8")):
        assert [name, value] in [line.split(maxsplit=1) for line in text.splitlines()]
