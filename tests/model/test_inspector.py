import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blemish.errors import DataError, ImageError, ModelFileError, PixelFormatError
from blemish.model import Inspector, Verdict
from blemish.model.archive import Archive
from tests.model import toy

GOOD = np.full((300, 200, 3), 26, np.uint8)


def defective() -> np.ndarray:
    """Taller than wide, where the model works at wider than tall; the worse of two defects is the second."""
    picture = GOOD.copy()
    picture[50:100, 20:60] = 200
    picture[200:250, 150:180] = 255
    return picture


@pytest.fixture(scope="module")
def model() -> Inspector:
    return toy.inspector()


def test_regions_are_where_the_defects_are(model: Inspector) -> None:
    result = model.inspect(defective(), name="bad.png")
    assert result.verdict is Verdict.REJECT
    assert result.score == 1.0
    assert [region.peak for region in result.regions] == [1.0, pytest.approx(200 / 255)]
    for region, (x, y, w, h) in zip(result.regions, [(150, 200, 30, 50), (20, 50, 40, 50)], strict=True):
        assert region.x <= x < x + w <= region.x + region.w <= 200
        assert region.y <= y < y + h <= region.y + region.h <= 300
        cell = 300 / toy.SIZE[0] * 2, 200 / toy.SIZE[1] * 2
        assert region.h < h + 2 * cell[0]
        assert region.w < w + 2 * cell[1]
        assert w * h <= region.area <= region.w * region.h


def test_record_has_the_documented_fields(model: Inspector) -> None:
    record = model.inspect(defective(), name="bad.png").record()
    assert list(record) == [
        *("image", "score", "verdict", "threshold", "review_threshold", "p_value"),
        *("regions", "nearest", "class", "class_confidence", "notes", "ms", "model"),
    ]
    assert [list(region) for region in record["regions"]] == [["x", "y", "w", "h", "area", "peak"]] * 2
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    told = {
        key: record[key]
        for key in ("image", "score", "verdict", "p_value", "nearest", "class", "class_confidence", "model")
    }
    assert told == {
        "image": "bad.png",
        "score": 1.0,
        "verdict": "reject",
        "p_value": 1 / 151,
        "nearest": None,
        "class": None,
        "class_confidence": None,
        "model": "toy.blemish",
    }
    assert record["threshold"] >= record["review_threshold"] > 0.29
    assert record["ms"] > 0
    good = model.inspect(GOOD).record()
    assert (good["verdict"], good["regions"]) == ("accept", [])
    assert good["p_value"] > 0.9


def test_nearest_good_picture() -> None:
    model = toy.inspector(nearest=True)
    assert model.inspect(GOOD).nearest == "dark.png"
    assert model.inspect(defective()).nearest == "bright.png"


def test_saved_and_loaded_answers_are_the_same(tmp_path: Path) -> None:
    model = toy.inspector()
    model.save(tmp_path / "parts.blemish")
    loaded = Inspector.load(str(tmp_path / "parts.blemish"))
    assert model.name == loaded.name == "parts.blemish"
    cv2.imwrite(str(tmp_path / "bad.png"), defective())
    (result,) = loaded.inspect_many([tmp_path / "bad.png"])
    expected = model.inspect(defective(), name=str(tmp_path / "bad.png"))
    assert result.record() | {"ms": 0} == expected.record() | {"ms": 0}
    loaded.save(tmp_path / "copy.blemish")
    assert (tmp_path / "copy.blemish").read_bytes() == (tmp_path / "parts.blemish").read_bytes()
    info = json.loads(json.dumps(loaded.info(), allow_nan=False))
    assert info["method"] == "toy"
    assert info["bytes"]["graph.onnx"] == len(loaded.archive.graph)
    assert info["calibration"]["statement"].startswith("Calibrated on 150 held-out good images")
    assert not {"remembered", "parts"} & set(info)


def test_inspecting_needs_none_of_what_fitting_needs(tmp_path: Path) -> None:
    toy.inspector().save(tmp_path / "toy.blemish")
    cv2.imwrite(str(tmp_path / "bad.png"), defective())
    script = """
import json, sys
class Absent:
    tried = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "scipy", "jinja2", "sklearn", "matplotlib", "pandas"}:
            self.tried.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from pathlib import Path
from blemish import images
from blemish.model import Inspector
model = Inspector.load(sys.argv[1])
assert "onnxruntime" not in sys.modules
result = model.inspect(sys.argv[2])
model.overlay(images.read(Path(sys.argv[2])), result)
assert not Absent.tried, Absent.tried
print(json.dumps(result.record()))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, tmp_path / "toy.blemish", tmp_path / "bad.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["verdict"] == "reject"


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((9, 9), np.uint8), "8-bit grey"),
        (np.zeros((9, 9, 4), np.uint8), "8-bit RGBA"),
        (np.zeros((9, 9, 3), np.uint16), "16-bit RGB"),
        (np.zeros((9, 9, 3)), "float RGB"),
    ],
)
def test_other_pictures_are_refused(model: Inspector, picture: np.ndarray, words: str) -> None:
    sentence = rf"^new is {words}, but this model was fitted on 8-bit RGB pictures: convert"
    with pytest.raises(PixelFormatError, match=sentence):
        model.inspect(picture, name="new")


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 4095), ("float32", 1)])
def test_grey_pictures(dtype: str, white: int) -> None:
    model = toy.inspector(channels=1, dtype=dtype)
    picture = np.full((48, 64), white / 10).astype(dtype)
    assert model.inspect(picture).verdict is Verdict.ACCEPT
    picture[10:20, 30:50] = white
    result = model.inspect(picture)
    assert result.score == pytest.approx(1)
    assert (result.regions[0].x, result.regions[0].y) == (30, 10)
    assert model.overlay(picture, result).shape == (48, 64, 3)


def test_pictures_without_a_value(model: Inspector, tmp_path: Path) -> None:
    floats = toy.inspector(channels=1, dtype="float32")
    with pytest.raises(ImageError, match="holds NaN or infinite values"):
        floats.inspect(np.full((9, 9), np.nan))
    with pytest.raises(DataError, match=r"^picture could not be scored: toy\.blemish answers NaN or inf"):
        toy.inspector(channels=1, dtype="float32", map_scale=9.0).inspect(np.full((24, 32), 3e38))
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        model.inspect(tmp_path / "none.png")


@pytest.mark.parametrize("what", ["map_scale", "score_scale"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_broken_model_never_accepts(what: str, scale: float) -> None:
    with pytest.raises(DataError, match=r"^new\.png could not be scored: .*or fit the model anew\.$"):
        toy.inspector(**{what: scale}).inspect(GOOD, name="new.png")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (b"", r"^The graph of m\.blemish cannot be opened, fit the model anew or upgrade onnxruntime: "),
        (b"no graph", r"^The graph of m\.blemish cannot be opened"),
        (
            toy.graph(score="score"),
            r"^The graph of m\.blemish turns \['pixels'\] into \['score', 'anomaly_map'\]",
        ),
        (toy.graph(channels=1), r"^The graph of m\.blemish fails, fit the model anew: "),
    ],
    ids=["empty", "garbage", "names", "channels"],
)
def test_graph_that_is_none_of_ours(change: bytes, sentence: str) -> None:
    archive = toy.archive()
    model = Inspector(Archive(archive.manifest, change, archive.calibration, b""), name="m.blemish")
    with pytest.raises(ModelFileError, match=sentence):
        model.inspect(GOOD)


def test_overlay_of_a_good_part_is_the_part(model: Inspector) -> None:
    result = model.inspect(GOOD)
    shown = model.overlay(GOOD, result)
    np.testing.assert_array_equal(shown[60:], GOOD[60:])  # below the label
    marked = model.overlay(defective(), model.inspect(defective()))
    assert (marked[210:240, 155:175] != defective()[210:240, 155:175]).any(axis=2).all()
    np.testing.assert_array_equal(marked[120:180], GOOD[120:180])


def test_threads_share_a_model() -> None:
    pictures = [np.full((40, 50, 3), value, np.uint8) for value in range(0, 250, 5)]

    def told(inspector: Inspector, picture: np.ndarray) -> dict[str, Any]:
        return inspector.inspect(picture).record() | {"ms": 0}

    alone, shared = toy.inspector(), toy.inspector()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda picture: told(shared, picture), pictures))
    assert answers == [told(alone, picture) for picture in pictures]


def test_arithmetic_outside_is_left_as_it_is() -> None:
    smallest = np.array([5e-324])
    toy.inspector().inspect(GOOD)
    assert (smallest * 1.0 > 0).all()
