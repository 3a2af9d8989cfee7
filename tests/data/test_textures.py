from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from blemish import images
from blemish.data import Role, check_masks, demo, duplicates, read
from blemish.data.demo import textures
from blemish.errors import UsageError

FOLDERS = [f"{klass}/test/{kind}" for klass, kinds in textures.KINDS.items() for kind in kinds]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.png"))
    }


def test_a_set_is_written_as_it_is_read_and_twice_the_same(tmp_path: Path) -> None:
    folders = demo.write_textures(tmp_path / "a", size=64, good=3, test=6)
    assert [folder.name for folder in folders] == list(demo.TEXTURES)
    samples = read(tmp_path / "a")
    assert (samples.layout, samples.classes) == ("mvtec", demo.TEXTURES)
    for klass in samples.classes:
        of_class = samples.klass(klass)
        test = of_class.role(Role.TEST)
        assert len(of_class.role(Role.TRAIN)) == 3
        assert [sample.bad for sample in test].count(False) == 6
        assert {sample.kind for sample in test} == {"good", *textures.KINDS[klass]}
    for sample in samples:
        assert sample.read().shape == (64, 64, 1)
        mask = sample.read_mask((64, 64))
        assert mask is not None
        assert mask.any() == sample.bad
    check_masks(samples)
    assert duplicates(samples) == []

    first = digests(tmp_path / "a")
    demo.write_textures(tmp_path / "b", size=64, good=2, test=4, classes=["felt", "knurl"])
    assert len(digests(tmp_path / "b")) == 2 * (2 + 4 + 4 + 4)
    assert digests(tmp_path / "b").items() <= first.items()
    demo.write_textures(tmp_path / "c", size=64, good=3, test=0, classes=["felt"], seed=1)
    assert not digests(tmp_path / "c").items() & first.items()
    alone = demo.render("felt/test/grain", 0, size=64)
    assert np.array_equal(images.read(tmp_path / "a/felt/test/grain/000.png")[..., 0], alone.pixels)


@pytest.mark.parametrize("folder", FOLDERS)
def test_masks_are_exact_and_defects_weak(folder: str) -> None:
    for index in range(4):
        picture = demo.render(folder, index)
        differs = picture.pixels != picture.intact
        assert not differs[~picture.mask].any()
        assert 0.0004 < picture.mask.mean() < 0.12
        assert differs[picture.mask].mean() > 0.5
        # beside what a good surface of the class varies by
        change = np.abs(picture.pixels.astype(float) - picture.intact)[picture.mask].mean()
        assert change < 2.5 * picture.intact.std()


@pytest.mark.parametrize("klass", demo.TEXTURES)
def test_surfaces_are_well_exposed_and_no_two_alike(klass: str) -> None:
    one, other = (demo.render(f"{klass}/train/good", index) for index in (0, 1))
    assert np.array_equal(one.pixels, one.intact)
    assert not one.mask.any()
    assert 40 < one.pixels.mean() < 190
    assert one.pixels.std() > 5
    assert np.isin(one.pixels, [0, 255]).mean() < 0.02
    assert np.abs(one.pixels.astype(int) - other.pixels).mean() > 5


def test_classes_differ_more_than_pictures_of_a_class() -> None:
    """By mean, contrast and the spectrum's power in rings and in wedges."""
    y, x = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    ring = np.digitize(np.hypot(x, y), [0.02, 0.05, 0.1, 0.2, 0.35])
    wedge = np.digitize(np.arctan2(y, x) % np.pi, np.pi * np.arange(1, 4) / 4)

    def look(klass: str, index: int) -> list[float]:
        grey = demo.render(f"{klass}/train/good", index, size=128).pixels / 255
        power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
        parts = [power[ring == r].sum() for r in range(6)] + [power[wedge == w].sum() for w in range(4)]
        return [
            float(grey.mean()),
            float(np.log(grey.std())),
            *np.log(np.array(parts) / power.sum()).tolist(),
        ]

    looks = {klass: np.array([look(klass, index) for index in range(4)]) for klass in demo.TEXTURES}
    within = np.sqrt(np.mean([each.var(axis=0) for each in looks.values()], axis=0))
    for one, other in combinations(looks.values(), 2):
        apart = np.abs(one.mean(axis=0) - other.mean(axis=0)) / within
        assert apart.max() > 5


def test_an_unknown_class(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no texture 'silk': choose among brushed, canvas, cast"):
        demo.write_textures(tmp_path, classes=["silk"])
