import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import default_rng

from blemish.defects import Source
from blemish.defects.fills import cut, noise, texture
from blemish.defects.source import Scene


def scene(*, grey: bool = False, compat: bool = False, augment: bool = False) -> Scene:
    rng = default_rng(5)
    images = rng.integers(0, 256, (3, 256, 256, 1 if grey else 3), np.uint8)
    foreground = np.zeros((3, 256, 256), bool)
    foreground[:, 100:140, 60:200] = True
    source = Source(np.broadcast_to(images, (3, 256, 256, 3)), foreground)
    return source.scene(rng, 0, augment=augment, compat=compat)


def test_noise_has_the_levels_and_swings_of_the_paper() -> None:
    rng, target = default_rng(0), scene()
    fills = [noise(rng, target, 40, 60).astype(float) for _ in range(1500)]
    means, swings = np.array([f.mean() for f in fills]), np.array([f.std() for f in fills])
    assert means.mean() == pytest.approx(120, abs=4)
    assert means.std() == pytest.approx(43.2, abs=3)  # of 50, 60, …, 190
    assert np.mean(swings == 0) == pytest.approx(0.1, abs=0.03)
    assert swings.max() < 46 / np.sqrt(3) * 1.25  # a uniform grain's deviation, and what bicubic overshoots
    assert min(f.min() for f in fills) >= 0
    along = np.array([np.abs(np.diff(f, axis=1)).mean() for f in fills])[swings > 5]
    across = np.array([np.abs(np.diff(f, axis=0)).mean() for f in fills])[swings > 5]
    assert np.mean(along > 2 * across) > 0.1  # streaks either way
    assert np.mean(across > 2 * along) > 0.1


def test_noise_is_grey_on_a_grey_product_only() -> None:
    def coloured(target: Scene) -> bool:
        fills = [noise(default_rng(seed), target, 20, 20) for seed in range(20)]
        return any((fill != fill[..., :1]).any() for fill in fills)

    assert not coloured(scene(grey=True))
    assert coloured(scene(grey=True, compat=True))
    assert coloured(scene())


@pytest.mark.parametrize(("height", "width"), [(9, 14), (61, 33)])
def test_a_cut_is_a_window_about_the_foreground(height: int, width: int) -> None:
    rng, target = default_rng(1), scene()
    source = target.source
    used = set()
    for _ in range(30):
        piece = cut(rng, target, height, width)
        windows = sliding_window_view(source.images[..., 0], (height, width), axis=(1, 2))
        candidates = np.argwhere(
            (windows[..., 0, 0] == piece[0, 0, 0]) & (windows[..., -1, -1] == piece[-1, -1, 0])
        )
        (place,) = [
            (index, top, left)
            for index, top, left in candidates.tolist()
            if np.array_equal(source.images[index, top : top + height, left : left + width], piece)
        ]
        assert source.foreground[place[0], place[1] + height // 2, place[2] + width // 2]
        used.add(place[0])
    assert used == {0, 1, 2}


def test_a_texture_fills_the_picture() -> None:
    fill = texture(default_rng(0), scene(augment=True), 256, 256)
    assert fill.shape == (256, 256, 3)
    assert fill.std() > 10
