"""Every registered method through the same contract: a method is tested by being registered."""

from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import blemish
from blemish import data
from blemish.data import Role, Samples, demo
from blemish.evaluate import evaluate
from blemish.images import PixelFormat
from blemish.methods import PRESETS, Method, Run, create, method_class, method_names
from blemish.nets.runtime import export

SIZE = (128, 128)
BANK = {"rows": 512}
REBUILDING: dict[str, object] = {
    "updates": 100,
    "batch": 8,
    "width": 64,
    "hidden": 128,
    "depth": 1,
    "dropout": 0.0,
    "learning_rate": 5e-3,
    "check_every": 0,
}
OPTIONS: dict[str, dict[str, object]] = {
    "knn": BANK,
    "reb": BANK,
    "fractalad": {"updates": 60, "check_every": 20, "pool": 200},
    "ear": {"updates": 60, "width": 8, "check_every": 20, "off": 0},
    "uniad": REBUILDING,
    "ltad": REBUILDING | {"name_updates": 20},
}
"""What makes a method quick: every other one is tested as it is."""
FLOORS = {"fractalad": (0.75, 0.8), "ear": (0.6, 0.75)}
"""Image and pixel AUROC after so little training."""


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("gear")
    demo.write(root, size=128, train=32, test_good=8, test_bad=12, products=["gear"])
    return data.read(root / "gear")


def run_for(samples: Samples, **changes: object) -> Run:
    images = [(sample.name, sample.read()) for sample in samples]
    return Run(size=SIZE, format=PixelFormat.of(images), **changes)  # type: ignore[arg-type]


class Fits:
    """One fit of each method, for all that only look at what came of it."""

    def __init__(self, gear: Samples) -> None:
        self.gear, self.train = gear, gear.role(Role.TRAIN)
        self.model, self.scorer = cache(self.fitted), cache(self.learned)

    def fitted(self, name: str) -> blemish.Inspector:
        return blemish.fit(self.gear, method=name, size=SIZE, options=OPTIONS.get(name, {}))

    def learned(self, name: str) -> tuple[Method, Run, nn.Module]:
        run, method = run_for(self.train), create(name, options=OPTIONS.get(name, {}))
        return method, run, method.fit(self.train, run).eval()


@pytest.fixture(scope="module")
def fits(gear: Samples) -> Fits:
    return Fits(gear)


@pytest.mark.parametrize("name", method_names())
class TestContract:
    def test_describes_itself(self, name: str) -> None:
        method = method_class(name)
        assert method.name == name
        assert is_dataclass(method.Config)
        assert method.Config.__dataclass_params__.frozen
        assert "fast" in method.presets
        assert set(method.presets) <= set(PRESETS)
        known = {field.name for field in fields(method.Config)}
        for preset, changes in method.presets.items():
            assert set(changes) <= known
            assert create(name, preset).config == method.Config(**changes)

    def test_header_says_what_is_faithful_and_what_is_ours(self, name: str) -> None:
        header = __import__(f"blemish.methods.{name}", fromlist=["_"]).__doc__
        for part in ("Paper:", "Faithful:", "Ours:"):
            assert part in header

    def test_scorer_gives_raw_scores_and_maps(self, name: str, fits: Fits) -> None:
        method, run, scorer = fits.scorer(name)
        batch = torch.from_numpy(run.pixels(fits.train[:3]))
        with torch.no_grad():
            together = scorer(batch)
            alone = scorer(batch[1:2])
        assert len(together) == len(method.outputs)
        assert together[0].shape == (3,)
        assert together[1].shape == (3, *SIZE)
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[1], one[0], rtol=1e-4, atol=1e-4)  # no picture sways another

    def test_exports_as_it_stands(self, name: str, fits: Fits) -> None:
        method, run, scorer = fits.scorer(name)
        graph = blemish.model.inspector.Graph(export(scorer, run.format.channels, SIZE, method.outputs))
        for count in (1, 5):
            batch = run.pixels(fits.train[:count])
            with torch.no_grad():
                trained = scorer.eval()(torch.from_numpy(batch))
            shipped = graph(batch)
            np.testing.assert_allclose(shipped.scores, trained[0].numpy(), rtol=1e-4, atol=1e-5)
            heat = trained[1].numpy()
            rounding = max(1e-4, 1e-5 * float(np.abs(heat).max()))  # of what is large, where it is subtracted
            np.testing.assert_allclose(shipped.maps, heat, rtol=1e-3, atol=rounding)

    def test_same_seed_same_model(self, name: str, fits: Fits) -> None:
        first = fits.model(name)
        second = blemish.fit(fits.gear, method=name, size=SIZE, options=OPTIONS.get(name, {}))
        assert first.archive.graph == second.archive.graph
        assert first.archive.weights == second.archive.weights
        assert first.calibration == second.calibration

    def test_tells_bad_from_good(self, name: str, fits: Fits) -> None:
        record = evaluate(fits.model(name), fits.gear).records[0]
        image, pixel = FLOORS.get(name, (0.8, 0.9))
        assert record["pixel_auroc"] > pixel
        assert record["n_test"] == 20
        assert record["false_reject_rate"] is not None
        assert record["image_auroc"] > image

    def test_leave_one_out_with_few_images(self, name: str, gear: Samples) -> None:
        few = gear.with_items(gear.role(Role.TRAIN).items[:6])
        model = blemish.fit(few, method=name, size=SIZE, options=OPTIONS.get(name, {}))
        assert model.calibration.how == "leave-one-out"
        assert len(model.calibration.scores) == 6
        if "nearest_image" in method_class(name).outputs:
            own = [model.raw(sample.read()).scores[0] for sample in few]
            assert min(model.calibration.scores) > max(own)  # what is remembered scores less

    def test_grey_and_many_channels(self, name: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        texture = rng.uniform(0, 1000, (48, 48, 5)).astype(np.uint16)
        pictures = [texture + rng.integers(0, 60, texture.shape).astype(np.uint16) for _ in range(6)]
        for channels in (1, 5):
            model = blemish.fit(
                [picture[..., :channels] for picture in pictures],
                method=name,
                size=48,
                options=OPTIONS.get(name, {}),
            )
            marked = pictures[0][..., :channels].copy()
            marked[16:30, 16:30, -1] = 1023
            assert model.inspect(marked).score > model.inspect(pictures[1][..., :channels]).score

    def test_file_carries_what_is_needed(self, name: str, fits: Fits, tmp_path: Path) -> None:
        model = fits.model(name)
        model.save(tmp_path / "gear.blemish")
        opened = blemish.load(tmp_path / "gear.blemish")
        sample = fits.gear.role(Role.TEST)[-1]
        before, after = model.inspect(sample.read()), opened.inspect(sample.read())
        assert before.score == after.score
        assert np.array_equal(before.map, after.map)
        manifest = opened.manifest
        assert manifest["method"] == name
        assert manifest["parity"]["score"] <= 1e-4
        assert manifest["n_train"] + manifest["n_calibration"] == 32
        assert manifest["fit_seconds"] > 0
        assert set(manifest["config"]) == {field.name for field in fields(method_class(name).Config)}


def test_unknown_names_are_refused_with_what_would_be_right() -> None:
    with pytest.raises(blemish.BlemishError, match=r"choose among .*knn"):
        create("patchcoer")
    with pytest.raises(blemish.BlemishError, match="choose among fast"):
        create("knn", "quick")
    with pytest.raises(blemish.BlemishError, match=r"has no option 'row': it has taps, rows"):
        create("knn", options={"row": 4})
