from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.defects import Source, foreground, has_one_object

REAL = Path(__file__).parents[3] / "shared" / "data"


def photograph(scene: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light from one side, a lens and a sensor."""
    height, width = scene.shape[:2]
    light = np.linspace(0.9, 1.1, width)[:, None] * np.linspace(0.95, 1.05, height)[:, None, None]
    blurred: NDArray[np.float64] = cv2.GaussianBlur(scene * light, (0, 0), 1.0)
    return (blurred + rng.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(256, 256), (200, 320), (700, 500)])
@pytest.mark.parametrize("colours", [((40, 42, 45), (150, 80, 40)), ((200, 200, 200), (90, 90, 90))])
def test_an_object_is_found(size: tuple[int, int], colours: tuple[tuple[int, ...], ...]) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        height, width = size
        mask = np.zeros(size, np.uint8)
        centre = (int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.4, 0.6)))
        axes = (int(width * rng.uniform(0.15, 0.35)), int(height * rng.uniform(0.2, 0.35)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        grain = cv2.resize(rng.normal(0, 15, (20, 20)), (width, height))[..., None]
        scene = np.where(mask[..., None] > 0, np.array(colours[1]) + grain, np.array(colours[0], float))
        found = foreground(photograph(scene, rng))
        assert found.confidence > 0.7
        assert (found.mask & (mask > 0)).sum() / (found.mask | (mask > 0)).sum() > 0.9


def textures() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    return {
        "noise": rng.uniform(60, 200, (256, 256)),
        "cloth": 120 + 50 * np.sin(60 * x) * np.sin(60 * y),
        "clouds": cv2.resize(rng.uniform(60, 200, (8, 8)), (256, 256), interpolation=cv2.INTER_CUBIC),
        "brushed": np.repeat(rng.uniform(60, 200, (1, 256)), 256, axis=0),
        "checks": 80 + 100 * ((x * 8 // 1 + y * 8 // 1) % 2),
        "lamp": 220 - 90 * (x**2 + y**2),
        "flat": np.full((256, 256), 128.0),
    }


@pytest.mark.parametrize("name", textures())
def test_a_texture_is_all_foreground(name: str) -> None:
    scene = np.repeat(textures()[name][..., None], 3, axis=2)
    found = foreground(photograph(scene, np.random.default_rng(1)))
    assert found.confidence < 0.5
    assert found.mask.all()


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 16)])
def test_tiny_and_even_pictures_are_all_foreground(size: tuple[int, int]) -> None:
    found = foreground(np.full((*size, 3), 77, np.uint8))
    assert found.mask.shape == size
    assert found.mask.all()
    assert found.confidence == 0


def test_one_object_is_dominant_and_of_a_middling_size() -> None:
    def verdict(*masks: NDArray[np.bool_]) -> bool:
        return has_one_object(Source(np.zeros((len(masks), 50, 50, 3), np.uint8), np.stack(masks)))

    one, two, tiny, huge = np.zeros((4, 50, 50), bool)
    one[10:30, 10:30] = one[40:44, 40:44] = True
    two[5:25, 5:25] = two[28:45, 28:45] = True
    tiny[:10, :10] = True
    huge[5:] = True
    assert [verdict(mask) for mask in (one, two, tiny, huge)] == [True, False, False, False]
    assert verdict(one, one, huge)
    assert not verdict(one, two, huge)
    assert not has_one_object(Source(np.zeros((2, 50, 50, 3), np.uint8)))


@pytest.mark.real
@pytest.mark.parametrize(
    ("product", "least", "most"),
    [
        ("screw", 0.05, 0.25),
        ("hazelnut_small", 0.2, 0.45),
        ("cookie", 0.2, 0.45),
        ("magnetic_tile", 1.0, 1.0),
    ],
)
def test_real_products(product: str, least: float, most: float) -> None:
    files = sorted((REAL / product / "train" / "good").glob("*"))[:20]
    if not files:
        pytest.skip(f"the pictures of {product} are not in {REAL}")
    for file in files:
        picture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        assert least <= foreground(picture).mask.mean() <= most, file.name
