import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish import load
from tests.cli.conftest import COMMAND, ENVIRONMENT, SMALL, Blemish
from tests.nets.test_language import save_language


@pytest.fixture
def good(product: Path, tmp_path: Path) -> Path:
    """A few good images that a test may spoil."""
    folder = tmp_path / "good"
    folder.mkdir()
    for index in range(4):
        shutil.copy(product / f"train/good/{index:03d}.png", folder)
    return folder


def test_fit_writes_a_model_and_says_what_it_is_worth(
    blemish: Blemish, product: Path, tmp_path: Path
) -> None:
    options = ("--size", "48x96", "--rows", "40", "--alpha=0.5", "--taps", "s8,s16", "--seed", "3")
    done = blemish("fit", product, *options, "--false-reject", "0.2", "--json", "told.json")
    assert re.fullmatch(
        r"Learning from 24 images: 1728 patch vectors of 152 values, of which 40 are remembered: "
        r"about \d+ MB of memory and \d+ s\.\n",
        done.stderr,
    )
    first, second, third = done.stdout.splitlines()
    assert re.fullmatch(r"gear\.blemish: \d+\.\d MB, fitted in \d+\.\d s", first)
    assert second.startswith("reb, preset fast, backbone lite0, of gear: 24 images to learn from, 6 to calib")
    assert third == load(tmp_path / "gear.blemish").calibration.statement
    assert third.startswith("Calibrated on 6 held-out good images: at most 1 in 7 good parts")

    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["file"], told["skipped"], told["size"], told["seed"]) == ("gear.blemish", 0, [48, 96], 3)
    chosen = {"rows": 40, "alpha": 0.5, "taps": ["s8", "s16"], "density": "represented"}
    assert chosen.items() <= told["config"].items()
    assert sum(told["bytes"].values()) == pytest.approx((tmp_path / "gear.blemish").stat().st_size, rel=0.01)
    assert json.loads(blemish("info", "gear.blemish", "--json", "-").stdout).items() <= told.items()


def test_the_options_are_those_of_the_method_that_is_named(blemish: Blemish) -> None:
    assert "--alpha NUMBER|auto" in blemish("fit", "--help").stdout
    assert "--alpha" not in blemish("fit", "--help", "--method", "knn").stdout


Spoil = Callable[[Path], object]


def truncate(folder: Path) -> None:
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])


BAD_FOLDERS: dict[str, tuple[Spoil, str]] = {
    "missing": (shutil.rmtree, "good does not exist: check its spelling"),
    "empty": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        r"There are no pictures in good \(no files\): add some with the suffix",
    ),
    "no images": (
        lambda folder: [path.rename(path.with_suffix(".txt")) for path in folder.iterdir()],
        r"There are no pictures in good \(4 × .txt\): add some with the suffix",
    ),
    "single": (
        lambda folder: [path.unlink() for path in sorted(folder.iterdir())[1:]],
        "good has 1 usable good image to learn from: at least 2 are needed",
    ),
    "channels": (
        lambda folder: cv2.imwrite(str(folder / "grey.png"), np.zeros((64, 64), np.uint8)),
        "000.png is 8-bit RGB, grey.png is 8-bit grey: convert them",
    ),
    "zero bytes": (lambda folder: (folder / "no.png").touch(), r"no.png is empty \(0 bytes\): copy it again"),
    "truncated": (truncate, "cut.png is damaged or cut off: copy it again"),
    "another file": (lambda folder: (folder / "x.png").write_text("hello"), "x.png is not a PNG, JPEG, .*"),
    "not a number": (
        lambda folder: np.save(folder / "n.npy", np.full((64, 64, 3), np.nan, np.float32)),
        "n.npy holds NaN or infinite values: replace them",
    ),
    "one class of defects inside": (
        lambda folder: shutil.move(folder / "000.png", (folder / "bad").mkdir() or folder / "bad"),
        "good is no plain folder of good images, for it has bad/ in it",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_images_that_cannot_be_used_are_named(blemish: Blemish, good: Path, case: str) -> None:
    spoil, message = BAD_FOLDERS[case]
    spoil(good)
    done = blemish("fit", "good", "--out", "m.blemish", *SMALL, code=3)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert re.search(message, done.stderr)
    assert not (good.parent / "m.blemish").exists()


def masks_of(good: Path) -> Path:
    folder = good.parent / "masks"
    folder.mkdir()
    shown = np.zeros((64, 64), np.uint8)
    shown[16:48, 8:56] = 255
    for picture in good.iterdir():
        cv2.imwrite(str(folder / f"{picture.stem}_mask.png"), shown)
    return folder


def test_the_first_few_images_their_foreground_and_how_to_train(blemish: Blemish, good: Path) -> None:
    masks_of(good)
    training = ("--updates=1", "--head-updates=0", "--draws=4", "--precision=bf16", "--devices=1")
    done = blemish("fit", "good", *SMALL, *training, "--few-shot=3", "--foreground=masks", "--json=told.json")
    assert done.stderr.splitlines()[1:] == [
        "A forward pass paints on 4 images and there are 3, so it paints on some of them more than once."
    ]
    told = json.loads((good.parent / "told.json").read_text())
    assert load(good.parent / "good.blemish").manifest["remembered"] == ["000.png", "001.png", "002.png"]
    chosen = {"updates": 1, "draws": 4, "alpha": "auto", "early": "frozen"}
    assert chosen.items() <= told["config"].items()
    assert str(told["facts"]["alpha"]) in told["facts"]["alpha_auroc"]
    assert sorted(path.name for path in good.parent.glob("good.*")) == ["good.blemish"]


@pytest.mark.slow
def test_a_killed_fit_goes_on_where_it_was(blemish: Blemish, good: Path) -> None:
    training = ("--updates=8", "--head-updates=2", "--draws=1", "--alpha=0.5")
    fit = ("fit", "good", *SMALL, *training)
    folder = good.parent
    model, checkpoint = folder / "m.blemish", folder / "m.blemish.checkpoint"
    while not checkpoint.exists():  # again, should a process ever be done before it can be killed
        model.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*COMMAND, *fit, "--out", model], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        process.kill()
        assert process.wait() <= 0
    assert not model.exists()

    kept = checkpoint.read_bytes()
    told = blemish(*fit, "--out", "m.blemish").stderr
    assert told.startswith("Warning: m.blemish.checkpoint of an interrupted training is started over")
    model.rename(folder / "whole.blemish")
    assert not checkpoint.exists()
    checkpoint.write_bytes(kept)
    blemish(*fit, "--out", "m.blemish", "--resume")
    resumed, whole = load(model).archive, load(folder / "whole.blemish").archive
    assert resumed.graph == whole.graph
    assert resumed.weights == whole.weights
    assert sorted(path.name for path in folder.iterdir()) == ["good", "m.blemish", "whole.blemish"]


def test_a_method_that_trains_nothing_leaves_checkpoints_alone(blemish: Blemish, good: Path) -> None:
    checkpoint = good.parent / "good.blemish.checkpoint"
    checkpoint.write_text("of another fit")
    told = blemish("fit", "good", "--method=knn", "--size=48", "--resume", code=2).stderr
    assert told == "Error: Here knn trains nothing that could be resumed: fit again without resume.\n"
    assert "checkpoint" not in blemish("fit", "good", "--method=knn", "--size=48").stderr
    assert checkpoint.read_text() == "of another fit"


def test_features_are_kept_for_the_next_fit(blemish: Blemish, good: Path) -> None:
    tiny = ("--updates=1", "--batch=1", "--width=8", "--heads=2", "--depth=1", "--hidden=8", "--kept=8")
    for seed, known in ((0, 0), (1, 4)):
        options = ("--method=uniad", "--size=48", *tiny, "--cache=kept", f"--seed={seed}")
        done = blemish("fit", "good", *options)
        assert f"The cache has the features of {known} of 4 images." in done.stderr.splitlines()
        assert len([path for path in (good.parent / "kept").rglob("*") if path.is_file()]) == 4


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no masks": (
        ("--foreground=good",),
        3,
        r"4 of 4 images have no foreground mask in good \(000.png, 001.png, 002.png, …\): name each mask",
    ),
    "too few shots": (
        ("--few-shot=1",),
        2,
        "Invalid value for '--few-shot': Input should be greater than or equal to 2",
    ),
    "more devices than forward passes": (
        ("--updates=1", "--devices=3"),
        2,
        "3 devices are more than the 2 forward passes",
    ),
    "nothing to resume": (
        ("--resume",),
        2,
        "There is no good.blemish.checkpoint to go on with: fit again without --resume",
    ),
    "cache": (
        ("--cache=good/000.png",),
        2,
        r"The folder good/000.png cannot be written to \(File exists\): choose another one with --cache",
    ),
    "precision": (("--precision=fp8",), 2, "'fp8' is not one of 'auto', 'fp32', 'bf16'"),
    "alpha": (("--alpha=often",), 2, r"--alpha takes NUMBER\|auto, not 'often'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_cannot_work_are_refused(blemish: Blemish, good: Path, case: str) -> None:
    options, code, message = BAD_OPTIONS[case]
    told = blemish("fit", "good", *SMALL, *options, code=code).stderr
    assert re.search(f"^Error: .*{message}", told, re.MULTILINE)
    assert [path.name for path in good.parent.iterdir()] == ["good"]


def test_unreadable_images_are_named_one_by_one_and_left_out_on_request(blemish: Blemish, good: Path) -> None:
    truncate(good)
    (good / "no.png").touch()

    cv2.imwrite(str(good / "large.png"), cv2.resize(cv2.imread(str(good / "001.png")), (150, 99)))
    told = blemish("fit", "good", *SMALL, code=3).stderr
    assert told.startswith("Error: 2 of 7 good images cannot be read")
    assert [line.split()[0] for line in told.splitlines()[1:]] == ["good/cut.png", "good/no.png"]
    done = blemish("fit", "good", *SMALL, "--skip-bad")
    assert "5 images to learn from, 5 to calibrate with" in done.stdout
    assert "; 2 left out\n" in done.stdout


def test_images_that_test_and_train_share(blemish: Blemish, product: Path, tmp_path: Path) -> None:
    data = shutil.copytree(product, tmp_path / "data")
    for index in range(7):
        shutil.copy(data / f"train/good/{index:03d}.png", data / f"test/good/again{index}.png")
    told = blemish("fit", data, *SMALL).stderr.splitlines()
    assert told[0].startswith("Warning: 7 test images are also learnt from")
    assert told[1] == "  train/good/000.png = test/good/again0.png"
    assert "  and 2 more" in told
    assert "Warning: 7 test images" in blemish("eval", "data.blemish", data).stderr


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("none/m.blemish", "none/m.blemish cannot be written .No such file or directory"),
        ("file/m.blemish", "file/m.blemish cannot be written .Not a directory"),
        ("folder.blemish", "folder.blemish is a folder: give the name of a file"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_at_once(
    blemish: Blemish, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.blemish").mkdir()
    # "nowhere" would be the next complaint
    assert re.match(f"Error: {message}", blemish("fit", "nowhere", "--out", out, code=2).stderr)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(blemish: Blemish, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    told = blemish("fit", "nowhere", "--out", "locked/m.blemish", code=2).stderr
    assert told.startswith("Error: locked/m.blemish cannot be written (Permission denied)")


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_no_half_model(blemish: Blemish, good: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    told = blemish("fit", "good", *SMALL, code=2, preexec_fn=limit).stderr
    assert re.search(
        r"^Error: good.blemish (cannot|could not) be written \(File too large\): make room",
        told,
        re.MULTILINE,
    )
    assert [path.name for path in good.parent.iterdir()] == ["good"]


def test_a_vision_language_model_in_place_of_a_backbone(
    blemish: Blemish, product: Path, tmp_path: Path
) -> None:
    vlm = save_language("clip", tmp_path)
    quick = ("--method", "ltad", "--size", "64", "--score-of", "sad", "--groups", "8", "--name-updates", "2")
    done = blemish("fit", product, *quick, "--vlm", vlm, "--out", "spoken.blemish")
    tier = "tier 1: names through the text tower of another vision–language model (adaptation)"
    assert tier in done.stdout + done.stderr
    assert tier in blemish("info", "spoken.blemish").stdout
    picture = next((product / "test/good").iterdir())
    [record] = map(json.loads, blemish("inspect", "spoken.blemish", picture).stdout.splitlines())
    assert record["verdict"] in ("accept", "review", "reject")
    done = blemish("fit", product, *quick, "--vlm", "no/such-model", code=2)
    assert "no/such-model is not among the local files: give the folder" in done.stderr
    done = blemish("fit", product, *quick, "--vlm", vlm, "--sad-cell", "4", code=2)
    assert "patches of its own: leave --sad-cell out" in done.stderr
