import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import images
from blemish.data import Role, Sample, Samples, read
from blemish.errors import DataError, ImageError, MaskError, OutputError, PixelFormatError
from blemish.evaluate import evaluate
from blemish.evaluate.evaluation import FIELDS, mean_record
from blemish.evaluate.metrics import image_metrics, pixel_metrics
from blemish.model import Inspector, Verdict

ToyModel = Callable[..., Inspector]
DESIGN = """dataset class method preset backbone size seed n_train n_calibration n_test
    image_auroc image_ap image_f1max pixel_auroc pixel_ap pixel_f1max aupro30 aupro05
    false_reject_rate miss_rate fit_seconds ms_p50 ms_p95 ms_p99 peak_rss_mb model_mb"""


def write_tree(root: Path, *, good: int = 6, bad: int = 8, masks: bool = True, seed: int = 0) -> Path:
    """Mid-grey with noise; bad pictures have a square that is off by anything from nothing to much."""
    for role in ("train/good", "test/good", "test/dent", "ground_truth/dent"):
        (root / role).mkdir(parents=True)
    for index in range(2 + good + bad):
        rng = np.random.default_rng([seed, index])
        picture = np.clip(rng.normal(128, 4, (40, 48, 3)), 0, 255).astype(np.uint8)
        mask = np.zeros((40, 48, 3), np.uint8)
        if index >= 2 + good:
            y, x = rng.integers(0, 25, 2)
            picture[y : y + 12, x : x + 10] += np.uint8(4 * (index - 2 - good))
            mask[y : y + 12, x : x + 10] = 255
            images.write_png(root / f"test/dent/{index:03d}.png", picture)
            if masks:
                images.write_png(root / f"ground_truth/dent/{index:03d}_mask.png", mask)
        else:
            images.write_png(
                root / ("test/good" if index >= 2 else "train/good") / f"{index:03d}.png", picture
            )
    return root


def test_records_are_those_of_the_design_and_agree_with_metrics_computed_directly(
    tmp_path: Path, toy_model: ToyModel
) -> None:
    samples, model = read(write_tree(tmp_path / "plate")), toy_model(nearest=True)
    evaluation = evaluate(model, samples)
    [record] = evaluation.records
    assert list(record) == DESIGN.split() == list(FIELDS) == list(evaluation.mean)
    test = samples.role(Role.TEST)
    raws = [model.raw(sample.read()) for sample in test]
    scores, bad = [float(raw.scores[0]) for raw in raws], [sample.bad for sample in test]
    masks = [images.resize_mask(sample.read_mask((40, 48)), (16, 16)) for sample in test]  # type: ignore[arg-type]
    ranked = image_metrics(scores, bad)
    pixels = pixel_metrics(lambda: [(raw.maps[0], mask) for raw, mask in zip(raws, masks, strict=True)])
    assert 0.5 < ranked.auroc < 1  # type: ignore[operator]
    assert record["image_auroc"] == ranked.auroc
    assert record["image_ap"] == ranked.ap
    assert record["image_f1max"] == ranked.f1max
    assert record["pixel_auroc"] == pixels.auroc
    assert record["pixel_ap"] == pixels.ap
    assert record["pixel_f1max"] == pixels.f1max
    assert record["aupro30"] == pixels.aupro30
    assert record["aupro05"] == pixels.aupro05
    threshold = model.calibration.threshold
    assert record["false_reject_rate"] == np.mean([s >= threshold for s in np.array(scores)[~np.array(bad)]])
    assert record["miss_rate"] == np.mean([s < threshold for s in np.array(scores)[bad]])
    settings = ["plate", "", "toy", "fast", "none", [16, 16], 0, 20, 99, 14]
    assert list(record.values())[:10] == settings
    assert (record["fit_seconds"], record["peak_rss_mb"]) == (1.5, 123.0)
    model.save(tmp_path / "toy.blemish")
    assert record["model_mb"] == pytest.approx((tmp_path / "toy.blemish").stat().st_size / 1e6, rel=0.3)

    tested = evaluation.classes[0].tested
    assert [one.name for one in tested] == [sample.name for sample in test]
    assert [one.score for one in tested] == scores
    assert {one.kind for one in tested} == {"good", "dent"}
    assert all((one.verdict is Verdict.REJECT) == (one.score >= threshold) for one in tested)
    assert {one.nearest for one in tested} == {"train/good/000.png"}
    ms = np.sort([one.ms for one in tested])
    assert [record[f"ms_p{q}"] for q in (50, 95, 99)] == np.percentile(ms, [50, 95, 99]).tolist()
    assert json.loads(json.dumps(evaluation.to_json())) == {
        "schema": 1,
        "records": [record],
        "mean": evaluation.mean,
    }


def test_what_the_data_cannot_give_is_null_and_never_zero(tmp_path: Path, toy_model: ToyModel) -> None:
    pixel_fields = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro30", "aupro05")
    image_fields = ("image_auroc", "image_ap", "image_f1max")
    model = toy_model()
    unmarked = evaluate(model, read(write_tree(tmp_path / "unmarked", masks=False)))
    assert all(unmarked.mean[field] is None for field in pixel_fields)
    assert all(unmarked.mean[field] is not None for field in (*image_fields, "miss_rate"))
    assert unmarked.classes[0].unmarked == 8
    good = evaluate(model, read(write_tree(tmp_path / "good", bad=0)))
    assert all(good.mean[field] is None for field in (*pixel_fields, *image_fields, "miss_rate"))
    assert good.mean["false_reject_rate"] is not None
    bad = evaluate(model, read(write_tree(tmp_path / "bad", good=0)))
    assert all(bad.mean[field] is None for field in (*image_fields, "false_reject_rate"))
    assert all(bad.mean[field] is not None for field in (*pixel_fields, "miss_rate"))
    fewer = evaluate(toy_model(seed=None, fit_seconds=None), read(tmp_path / "good"))
    assert (fewer.mean["seed"], fewer.mean["fit_seconds"]) == (None, None)


def test_a_bad_picture_that_nobody_marked_counts_as_an_image_only(
    tmp_path: Path, toy_model: ToyModel
) -> None:
    root = write_tree(tmp_path / "plate")
    model, first, second = toy_model(), *sorted((root / "ground_truth/dent").iterdir())[:2]
    first.unlink()
    images.write_png(second, np.zeros((40, 48, 3), np.uint8))
    partly = evaluate(model, read(root))
    for mask in (first, second):
        (root / "test/dent" / mask.name.replace("_mask", "")).unlink()
    without = evaluate(model, read(root))
    assert (partly.classes[0].unmarked, without.classes[0].unmarked) == (2, 0)
    assert (partly.mean["n_test"], without.mean["n_test"]) == (14, 12)
    for field in ("pixel_auroc", "pixel_ap", "aupro30"):
        assert partly.mean[field] == without.mean[field]
    assert partly.mean["image_auroc"] != without.mean["image_auroc"]


def test_one_record_a_class_and_progress_over_every_test_picture(tmp_path: Path, toy_model: ToyModel) -> None:
    for seed, klass in enumerate(("bolt", "nut")):
        write_tree(tmp_path / "parts" / klass, bad=3 + seed, masks=klass == "nut", seed=seed)
    seen: list[tuple[str, int, int]] = []

    def progress(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
        held = list(items)
        seen.append((what, total, len(held)))
        return held

    evaluation = evaluate(toy_model(classes=["bolt", "nut"]), read(tmp_path / "parts"), progress=progress)
    bolt, nut = evaluation.records
    assert [(r["dataset"], r["class"], r["n_test"]) for r in (bolt, nut)] == [
        ("parts", "bolt", 9),
        ("parts", "nut", 10),
    ]
    assert seen == [("inspect bolt", 9, 9), ("inspect nut", 10, 10)]
    mean = evaluation.mean
    assert mean["image_auroc"] == pytest.approx((bolt["image_auroc"] + nut["image_auroc"]) / 2)
    assert bolt["pixel_ap"] is None
    assert mean["pixel_ap"] == nut["pixel_ap"]
    assert (mean["class"], mean["method"], mean["size"], mean["seed"]) == (None, "toy", [16, 16], 0)
    assert (mean["n_test"], mean["n_train"], mean["n_calibration"]) == (19, 20, 99)  # one model for both
    assert mean_record([bolt, nut])["n_train"] == 40
    assert mean_record([]) == dict.fromkeys(FIELDS)


def test_memory_does_not_grow_with_the_number_of_pictures(toy_model: ToyModel) -> None:
    model = toy_model(size=(256, 256), channels=1)
    grey = np.full((8, 8, 1), 128, np.uint8)

    def peak(count: int) -> int:
        items = [Sample(name=f"{n}", role=Role.TEST, bad=False, pixels=grey) for n in range(count)]
        items.append(Sample(name="bad", role=Role.TEST, bad=True, path=bad, mask=bad))
        tracemalloc.start()
        evaluate(model, Samples("many", "arrays", tuple(items)))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.npy"
        np.save(bad, np.eye(8, dtype=np.uint8)[..., None] * 255)
        few, many = peak(120), peak(480)
    assert many < few + 480 * 256 * 256  # four bytes a pixel and its mask would be five times that


def test_what_cannot_be_evaluated_is_refused_by_name(tmp_path: Path, toy_model: ToyModel) -> None:
    root = write_tree(tmp_path / "plate")
    model, samples = toy_model(), read(root)
    with pytest.raises(DataError, match=r"^plate has no test images: add some"):
        evaluate(model, samples.role(Role.TRAIN))
    two = [replace(sample, klass=f"{number % 2}") for number, sample in enumerate(samples)]
    with pytest.raises(
        DataError, match=r"^plate has several products, 0 for one, and .* choose it with --class"
    ):
        evaluate(model, samples.with_items(two))
    with pytest.raises(PixelFormatError, match=r"^test/dent/008\.png is 8-bit RGB"):
        evaluate(toy_model(channels=1), samples)
    images.write_png(root / "ground_truth/dent/009_mask.png", np.full((20, 20, 3), 255, np.uint8))
    with pytest.raises(MaskError, match=r"009_mask\.png is 20×20 pixels, but its picture is 48×40"):
        evaluate(model, samples)
    (root / "test/good/003.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ImageError, match=r"test/good/003\.png"):
        evaluate(model, samples.with_items(sample for sample in samples if not sample.bad))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_temporary_folder_is_named(
    tmp_path: Path, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read(write_tree(tmp_path / "plate"))
    full = partial(Path("/dev/full").open, "r+b", buffering=0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(
        OutputError, match=r"cannot be kept in .* \(No space left on device\): make room there"
    ):
        evaluate(toy_model(), samples)
