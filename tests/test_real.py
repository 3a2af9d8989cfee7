"""The whole path on real pictures, where they are at hand."""

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
    assert record["peak_rss_mb"] < 1800  # the tests themselves are in it


def test_a_backbone_from_a_local_file() -> None:
    samples = data.read(SHARED / "data" / "hazelnut_small")
    weights = SHARED / "weights" / "resnet18_imagenet_bnfolded_to_layer3.safetensors"
    model = blemish.fit(samples, method="knn", backbone="resnet18", weights=weights)
    assert model.manifest["facts"]["width"] == 512
    record = evaluate(model, samples).records[0]
    assert record["image_auroc"] > 0.9
    assert record["pixel_auroc"] > 0.97
