from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from blemish import images
from blemish.data import Role, check_masks, demo, duplicates, read
from blemish.errors import OutputError, UsageError

KINDS = [f"{name}/test/{kind}" for name, product in demo._DRAWN.items() for kind in product.kinds]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_demo_set_is_written_as_it_is_read_and_twice_the_same(tmp_path: Path) -> None:
    folders = demo.write(tmp_path / "a", size=64, train=3, test_good=2, test_bad=5)
    assert [folder.name for folder in folders] == list(demo.PRODUCTS)
    samples = read(tmp_path / "a")
    assert (samples.layout, samples.classes) == ("mvtec", demo.PRODUCTS)
    for klass in samples.classes:
        test = samples.klass(klass).role(Role.TEST)
        assert len(samples.klass(klass).role(Role.TRAIN)) == 3
        assert [sample.bad for sample in test].count(True) == 5
        assert len({sample.kind for sample in test}) == 5
    for sample in samples.role(Role.TEST):
        mask = sample.read_mask((64, 64))
        assert mask is not None
        assert mask.any() == sample.bad
    check_masks(samples)
    assert duplicates(samples) == []

    first = digests(tmp_path / "a")
    demo.write(tmp_path / "a", size=64, train=3, test_good=2, test_bad=5)
    assert digests(tmp_path / "a") == first
    demo.write(tmp_path / "b", size=64, train=2, test_good=1, test_bad=4, products=["weave"])
    assert digests(tmp_path / "b").items() <= first.items()
    demo.write(tmp_path / "c", size=64, train=1, test_good=0, test_bad=0, products=["weave"], seed=1)
    assert not digests(tmp_path / "c").items() & first.items()


@pytest.mark.parametrize("folder", KINDS)
def test_masks_are_exact(folder: str) -> None:
    for index in range(6):
        picture = demo.render(folder, index)
        differs = (picture.pixels != picture.intact).any(axis=2)
        assert not differs[~picture.mask].any()
        assert 0.0004 < picture.mask.mean() < 0.08
        # the closing of pinholes adds little to what truly differs
        assert differs[picture.mask].mean() > 0.6


def test_good_pictures_vary_and_have_no_defect() -> None:
    for product in demo.PRODUCTS:
        one, other = (demo.render(f"{product}/train/good", index) for index in (0, 1))
        assert not one.mask.any()
        assert np.array_equal(one.pixels, one.intact)
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() > 2


def test_a_picture_is_a_function_of_its_place_alone(tmp_path: Path) -> None:
    demo.write(tmp_path, size=48, train=0, test_good=0, test_bad=8, products=["gear"])
    alone = demo.render("gear/test/scratch", 1, size=48)
    written = images.read(tmp_path / "gear/test/scratch/001.png")
    assert np.array_equal(written, alone.pixels)
    mask = images.read_mask(tmp_path / "gear/ground_truth/scratch/001_mask.png", (48, 48))
    assert np.array_equal(mask, alone.mask)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no demo product 'bolt': choose among gear, label, weave"):
        demo.write(tmp_path, products=["bolt"])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be made .*choose another folder"):
        demo.write(tmp_path / "file")
