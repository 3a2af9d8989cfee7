from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from blemish.errors import UsageError
from blemish.nets import load_backbone
from blemish.nets.distillation import Moments
from blemish.nets.maps import TEMPERATURE, Likeness, Stacked, grid_of
from blemish.nets.runtime import export
from tests.nets.zoo import ZOO

SIZE = (64, 96)


def test_a_cell_of_the_grid_is_sixteen_pixels() -> None:
    assert [grid_of(size) for size in ((256, 256), (224, 640), (50, 33))] == [(16, 16), (14, 40), (4, 3)]


@torch.no_grad()
def test_stages_lie_side_by_side_on_one_grid() -> None:
    backbone, pictures = load_backbone(), torch.rand(2, 3, *SIZE)
    stacked = Stacked(backbone, (), grid_of(SIZE)).eval()
    assert stacked.taps == ("s4", "s8", "s16")
    stacked = Stacked(backbone, ("s4", "s16", "s32"), grid_of(SIZE)).eval()
    maps = stacked(pictures)
    assert maps.shape == (2, 24 + 112 + 320, 4, 6)
    own = backbone(pictures, stacked.taps)
    assert [stage.shape[-1] for stage in own] == [24, 6, 3]
    for found, stage in zip(maps.split([24, 112, 320], 1), own, strict=True):
        assert len(found[0]) == len(stage[0])
        for number, channel in ((0, 0), (1, 5), (1, 23)):
            how = cv2.INTER_AREA if stage.shape[-1] > 6 else cv2.INTER_LINEAR
            expected = cv2.resize(stage[number, channel].numpy(), (6, 4), interpolation=how)
            np.testing.assert_allclose(found[number, channel], expected, atol=1e-4)


@torch.no_grad()
def test_pictures_of_any_channels_and_chosen_taps() -> None:
    stacked = Stacked(load_backbone(), ("s16", "s8"), (4, 6))
    grey, five = torch.rand(1, 1, *SIZE), torch.rand(1, 5, *SIZE)
    torch.testing.assert_close(stacked(grey), stacked(grey.repeat(1, 3, 1, 1)))
    first, last = stacked(five[:, :3]), stacked(five[:, [3, 4, 4]])
    halves = [
        torch.cat(each, 1) for each in zip(first.split([112, 40], 1), last.split([112, 40], 1), strict=True)
    ]
    torch.testing.assert_close(stacked(five), torch.cat(halves, 1))
    with pytest.raises(UsageError, match="no tap 's9'"):
        Stacked(load_backbone(), ("s9",), (4, 6))(grey)


@pytest.mark.parametrize("kind", ["hub vit", "hub resnet"])
def test_other_backbones_and_the_graph(kind: str, tmp_path: Path) -> None:
    _, backbone = ZOO[kind](tmp_path)
    stacked = Stacked(backbone, (), grid_of(SIZE)).eval()
    own = ("stage1", "stage2", "stage3") if kind == "hub resnet" else backbone.default_taps
    assert stacked.taps == own  # of one stride not all dozen layers
    pictures = torch.rand(2, 3, *SIZE)
    session = onnxruntime.InferenceSession(
        export(stacked, 3, SIZE, ["maps"]), providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        expected = stacked(pictures)
    assert expected.shape[-2:] == (4, 6)
    found = session.run(None, {"pixels": pictures.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_shares_are_of_cosines_between_means_in_common_deviations() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([10, 1, 0.5, 1, 1])[:, None, None]
    centres = scales * (3 + rng.normal(size=(3, 5, 1, 1)))
    classes = [
        centre + scales * rng.normal(size=(count, 5, 4, 3))
        for centre, count in zip(centres, (9, 2, 4), strict=True)
    ]
    usual = [Moments.of([x] for x in torch.from_numpy(maps))[0] for maps in classes]
    likeness = Likeness.of(usual)

    means = np.stack([maps.mean((0, 2, 3)) for maps in classes])
    weights = np.concatenate([np.full(len(maps) * 12, 1 / len(maps)) for maps in classes])
    vectors = np.concatenate([np.moveaxis(maps, 1, -1).reshape(-1, 5) for maps in classes])
    mean = np.average(vectors, axis=0, weights=weights)
    deviation = np.sqrt(np.average((vectors - mean) ** 2, axis=0, weights=weights))
    new = centres[[2, 0]] + scales * rng.normal(size=(2, 5, 4, 3))
    looks, directions = ((each - mean) / deviation for each in (new.mean((2, 3)), means))
    cosines = looks @ directions.T / np.outer(*(np.linalg.norm(each, axis=1) for each in (looks, directions)))
    shares = np.exp(cosines / TEMPERATURE)
    shares /= shares.sum(1, keepdims=True)
    found = likeness(torch.from_numpy(new).float())
    np.testing.assert_allclose(found, shares, rtol=1e-3, atol=1e-5)
    assert found.argmax(1).tolist() == [2, 0]

    # Without the second class the other two are as they are among themselves, and it is neither.
    gap = Likeness.of([usual[0], None, usual[2]])
    assert not gap.directions[1].any()
    pair = Likeness.of([usual[0], usual[2]])(torch.from_numpy(new).float())
    known = gap(torch.from_numpy(new).float())[:, [0, 2]]
    torch.testing.assert_close(known / known.sum(1, keepdim=True), pair)
