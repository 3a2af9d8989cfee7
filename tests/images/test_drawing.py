import os
from pathlib import Path

import numpy as np
import pytest

from blemish.errors import OutputError
from blemish.images import overlay, read, write_png

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_a_good_part_does_not_glow() -> None:
    heat = np.random.default_rng(1).random((16, 20), np.float32)  # its own range is 0..1
    np.testing.assert_array_equal(overlay(IMAGE, heat, low=1.0, high=5.0), IMAGE)
    np.testing.assert_array_equal(overlay(IMAGE, heat, low=1.0, high=1.0, outline_at=2.0), IMAGE)


def test_more_heat_shows_more_and_beyond_high_no_more() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)

    def change(value: float) -> float:
        heat = np.full((8, 8), value, np.float32)
        return float(np.abs(overlay(grey, heat, low=0.0, high=1.0).astype(int) - grey).mean())

    steps = [change(value) for value in np.linspace(0, 1, 6)]
    assert steps == sorted(set(steps))
    assert change(1.0) == change(50.0)


def test_only_the_hot_place_changes() -> None:
    heat = np.zeros((16, 20), np.float32)
    heat[4:6, 5:8] = 1
    changed = (overlay(IMAGE, heat, low=0.5, high=1.0) != IMAGE).any(2)
    y, x = np.nonzero(changed)
    assert (y >= 16).all()
    assert (y < 24).all()
    assert (x >= 20).all()
    assert (x < 32).all()


def test_outlines_and_label_are_drawn_where_they_belong() -> None:
    mask = np.zeros((64, 80), bool)
    mask[40:50, 30:60] = True
    heat = np.zeros((64, 80), np.float32)
    heat[20:30, 50:60] = 1
    cold = {"low": 2.0, "high": 3.0}
    for options, inside, place in (
        ({"mask": mask}, (45, 45), (40, 45)),
        ({"outline_at": 0.5}, (25, 55), (20, 55)),
    ):
        drawn = overlay(IMAGE, heat, **cold, **options)
        assert (drawn[place] != IMAGE[place]).any()
        assert (drawn[inside] == IMAGE[inside]).all()
    both = overlay(IMAGE, heat, **cold, mask=mask, outline_at=0.5)
    assert both[40, 45].tolist() != both[20, 55].tolist()
    labelled = overlay(IMAGE, heat, **cold, text="3.21 reject")
    assert (labelled[:8, 5:50] != IMAGE[:8, 5:50]).any(2).mean() > 0.9
    np.testing.assert_array_equal(labelled[32:], IMAGE[32:])


def test_the_image_itself_is_left_alone() -> None:
    before = IMAGE.copy()
    overlay(IMAGE, np.ones((4, 4), np.float32), low=0.0, high=1.0, text="1", outline_at=0.5)
    np.testing.assert_array_equal(IMAGE, before)


def test_png_round_trip_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "Bild ü.png"
    write_png(path, np.zeros_like(IMAGE))
    write_png(path, IMAGE)
    np.testing.assert_array_equal(read(path), IMAGE)
    assert list(tmp_path.iterdir()) == [path]


def test_png_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "a.png", tmp_path / "taken.png", tmp_path / "file" / "a.png"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_png(path, IMAGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_png_into_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_png(tmp_path / "a.png", IMAGE)
