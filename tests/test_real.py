"""The whole path on real pictures, where they are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import blemish
from blemish import data
from blemish.evaluate import evaluate

SHARED = Path(__file__).parents[2] / "shared"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the real pictures in ../shared/data"),
]


# Image AUROC, pixel AUROC, AUPRO that a change must not fall below: a little under what is measured (README).
@pytest.mark.parametrize(
    ("folder", "method", "floor"),
    [
        ("screw", "reb", (0.94, 0.98, 0.91)),
        ("cookie", "knn", (0.98, 0.97, 0.91)),
        ("cookie", "reb", (0.95, 0.97, 0.90)),
        ("transistor_small", "knn", (0.8, 0.92, 0.8)),
        ("hazelnut_small", "reb", (0.8, 0.97, 0.9)),
    ],
)
def test_accuracy_holds(folder: str, method: str, floor: tuple[float, float, float]) -> None:
    samples = data.read(SHARED / "data" / folder)
    model = blemish.fit(samples, method=method)
    record = evaluate(model, samples).records[0]
    found = (record["image_auroc"], record["pixel_auroc"], record["aupro30"])
    assert all(value >= least for value, least in zip(found, floor, strict=True)), found


def test_a_fit_takes_the_memory_of_a_small_machine(tmp_path: Path) -> None:
    folder, told = str(SHARED / "data" / "screw"), tmp_path / "told.json"
    command = [sys.executable, "-m", "blemish", "fit", folder, "--out", str(tmp_path / "screw.blemish")]
    subprocess.run([*command, "--json", str(told)], check=True, capture_output=True)
    assert 200 < json.loads(told.read_text("utf-8"))["peak_rss_mb"] < 1500


def test_a_backbone_from_a_local_file() -> None:
    samples = data.read(SHARED / "data" / "hazelnut_small")
    weights = SHARED / "weights" / "resnet18_imagenet_bnfolded_to_layer3.safetensors"
    model = blemish.fit(samples, method="knn", backbone="resnet18", weights=weights)
    assert model.manifest["facts"]["width"] == 512
    record = evaluate(model, samples).records[0]
    assert record["image_auroc"] > 0.9
    assert record["pixel_auroc"] > 0.97
