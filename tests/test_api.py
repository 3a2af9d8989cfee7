"""fit() and load() as a program calls them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import blemish
from blemish import errors
from blemish.images import write_png
from tests.methods.product import datasets

QUICK = {"size": 48, "options": {"rows": 64}}


def pictures(count: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 120, (48, 48, 3)).astype(np.uint8)
    return [base + rng.integers(0, 20, base.shape).astype(np.uint8) for _ in range(count)]


def test_a_list_of_arrays() -> None:
    model = blemish.fit(pictures(30), **QUICK)
    assert model.manifest["n_train"] == 24
    assert model.manifest["n_calibration"] == len(model.calibration.scores) == 6
    assert model.manifest["facts"]["weights_licence"] == "Apache-2.0"
    bad = pictures(1)[0]
    bad[10:30, 10:30] = (250, 0, 0)
    result = model.inspect(bad)
    assert result.verdict is blemish.Verdict.REJECT
    assert result.nearest in {f"array-{number:04d}" for number in range(30)}
    worst = result.regions[0]
    assert worst.x < 20 < worst.x + worst.w
    assert worst.y < 20 < worst.y + worst.h
    assert model.inspect(pictures(31)[30]).verdict is not blemish.Verdict.REJECT


def test_every_unreadable_image_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    for skip in (False, True):
        with pytest.raises(
            errors.DataError, match=r"2 of 2 good images cannot be read(.|\n)*a\.png(.|\n)*b\.png"
        ):
            blemish.fit(tmp_path, skip_bad=skip, **QUICK)


def test_mixed_sizes_are_fine_and_mixed_channels_are_not(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(6)):
        write_png(tmp_path / f"{number}.png", picture[: 40 + number])
    assert blemish.fit(tmp_path, **QUICK).manifest["n_train"] == 6
    np.save(tmp_path / "grey.npy", pictures(1)[0][..., 0])
    with pytest.raises(errors.PixelFormatError, match=r"grey\.npy is 8-bit grey"):
        blemish.fit(tmp_path, **QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda:7"}, "device 'cuda:7' cannot be used here: choose cpu"),
        ({"bank_mb": 0.0001}, "raise --bank-mb to at least"),
        ({"backbone": "resnet18"}, "pass --weights FILE"),
        ({"false_reject": 0.9}, "false-reject budget"),
        ({"seed": 2**63}, "The seed is 9223372036854775808: give a whole number of at least 0 and below"),
        (
            {"method": "uniad", "bank_mb": 8.0, "options": {}},
            "uniad remembers no patches that could be limited: leave",
        ),
        ({"devices": 2}, "trains nothing that 2 devices could share: ask for one"),
        (
            {"method": "knn", "foreground": "masks"},
            "knn paints no defects and so needs no foreground: fit without it",
        ),
        ({"size": 10**6}, "4 good images of 1000000×1000000 pixels need at least .* choose a smaller size"),
        ({"preset": "quick"}, "no preset 'quick'"),
        ({"options": {"taps": ("s9",)}}, "no tap 's9': choose among s4"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        blemish.fit(pictures(4), **{**QUICK, **change})  # type: ignore[arg-type]


def test_the_budget_bounds_the_bank() -> None:
    model = blemish.fit(pictures(30), size=96, bank_mb=0.05, options={"rows": 3072})
    rows = model.manifest["facts"]["bank_rows"]
    assert 60 < rows < 100
    assert rows * (152 + 2) * 4 <= 0.05e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it so")
def test_the_peak_of_memory_is_not_that_of_the_process_before() -> None:
    held = np.ones(400_000_000, np.uint8)
    script = "from blemish.api import peak_rss_mb\nprint(peak_rss_mb())"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert 10 < float(told) < held.nbytes / 1e6


@pytest.mark.parametrize("method", ["knn", "reb"])
@pytest.mark.parametrize("disturbed", [0, 4])
def test_good_pictures_that_are_all_alike(method: str, disturbed: int) -> None:
    """They score nothing but rounding, which no graph can be held to."""
    alike = [picture.copy() for picture in pictures(1) * 8]
    for number, picture in enumerate(alike):
        picture[number, :disturbed] += np.uint8(1)
    model = blemish.fit(alike, method=method, **QUICK)
    bad = alike[0].copy()
    bad[10:30, 10:30] = (250, 0, 0)
    assert model.inspect(bad).verdict is blemish.Verdict.REJECT


def test_one_picture_cannot_calibrate(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(4)):
        folder = tmp_path / ("validation/good" if not number else "train/good")
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{number}.png", picture)
    with pytest.raises(errors.DataError, match="has one usable image to calibrate with: give 2 or more"):
        blemish.fit(tmp_path, **QUICK)


def test_products_of_a_single_image_calibrate_only_where_there_are_no_others() -> None:
    samples = blemish.data.read(pictures(3))
    classes = ["a", "a", "b"]
    named = [replace(sample, klass=klass) for sample, klass in zip(samples, classes, strict=True)]
    model = blemish.fit(samples.with_items(named), method="knn", **QUICK)
    assert len(model.calibration.scores) == 2
    lone = [replace(sample, klass=sample.name) for sample in samples]
    model = blemish.fit(samples.with_items(lone), method="knn", **QUICK)
    assert len(model.calibration.scores) == 3, "there are no others"


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    given = {"seed": np.int64(3), "false_reject": np.float32(0.25), "size": (np.int64(48), np.int16(48))}
    model = blemish.fit(pictures(8), **{**QUICK, **given})
    model.save(tmp_path / "m.blemish")
    assert blemish.load(tmp_path / "m.blemish").manifest["size"] == [48, 48]
    with pytest.raises(errors.UsageError, match="working size is 0×0: give sides"):
        blemish.fit(pictures(8), **{**QUICK, "size": 0})


def test_a_product_of_which_nothing_readable_is_left_to_learn_from(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(6)):
        for place in ("a/train/good", "a/validation/good", "b/validation/good"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            write_png(tmp_path / place / f"{number}.png", picture)
    (tmp_path / "b/train/good").mkdir(parents=True)
    (tmp_path / "b/train/good/0.png").touch()
    with pytest.raises(errors.DataError, match="no usable good images to learn from of b: add some"):
        blemish.fit(tmp_path, skip_bad=True, **QUICK)


def test_what_one_image_is_too_few_of_is_named() -> None:
    several = datasets(pictures(4), ("nut", "bolt", "bolt", "bolt"))
    with pytest.raises(errors.DataError, match=r"^parts \(nut\) has 1 usable good image to learn from"):
        blemish.fit(several, klass="nut", **QUICK)
