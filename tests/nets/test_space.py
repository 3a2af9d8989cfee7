"""What is seen, and in which coordinates."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.errors import UsageError
from blemish.nets import load_backbone
from blemish.nets.distillation import Moments
from blemish.nets.language import load_language
from blemish.nets.maps import Stacked, grid_of
from blemish.nets.space import Gaze, Seen, Space, to_texts
from blemish.nets.uniad import FAINTEST
from tests.nets.test_language import save_language
from tests.nets.zoo import ZOO

SIZE = (32, 48)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_rows_tell_all_that_is_seen(tmp_path: Path) -> None:
    name, _ = ZOO["hub resnet"](tmp_path)
    stacked = Stacked(load_backbone(name), (), grid_of(SIZE))
    gaze, pictures = Gaze(stacked, 1, SIZE), torch.rand(3, 1, *SIZE)
    seen = gaze.seen(gaze(pictures).half())
    torch.testing.assert_close(seen.maps, stacked(pictures), rtol=2e-3, atol=2e-3)
    assert seen.patches is None
    assert not len(seen.image)
    assert gaze.grid == (2, 3)


@torch.no_grad()
def test_patches_to_compare_lie_on_a_finer_grid_than_what_is_learned_on() -> None:
    stacked = Stacked(load_backbone("lite0", weights=None), (), grid_of(SIZE, 8))
    gaze, pictures = Gaze(stacked, 5, SIZE, grid_of(SIZE), 0.25), torch.rand(3, 5, *SIZE)
    seen, fine = gaze.seen(gaze(pictures)), stacked(pictures)
    assert gaze.grid == (2, 3)
    torch.testing.assert_close(seen.maps, F.avg_pool2d(fine, 2))
    assert seen.compared is not None
    patches = stacked.joined([F.avg_pool2d(stage, 3, 1, 1) for stage in stacked.stages(pictures)])
    level = 0.25 * patches.mean((2, 3), keepdim=True)
    torch.testing.assert_close(seen.compared, patches - level)
    assert sum(stacked.widths(5, SIZE)) == seen.compared.shape[1]
    space = Space.of([Moments.of([each] for each in seen.maps)], width=4)
    assert space(seen).compared is seen.compared


@pytest.mark.parametrize("kind", ["align", "clip", "siglip"])
@torch.no_grad()
def test_a_vision_language_model_also_gives_patches_and_pictures(kind: str, tmp_path: Path) -> None:
    language = load_language(str(save_language(kind, tmp_path)))
    gaze, pictures = Gaze(language, 1, SIZE), torch.rand(2, 1, *SIZE)
    seen = gaze.seen(gaze(pictures))
    expected = language(pictures.expand(-1, 3, -1, -1))
    assert seen.compared is None
    for found, wanted in zip(seen[:3], expected, strict=True):
        assert found is not None
        torch.testing.assert_close(found, wanted)
    assert gaze.grid == expected[0].shape[-2:]
    with pytest.raises(UsageError, match="these have 5 channels: fit without --vlm"):
        Gaze(language, 5, SIZE)


def usual(own: bool = False) -> tuple[list[list[Moments]], list[Tensor]]:
    """Two classes, of which one has much fewer pictures; the moments of maps, and of their first channels."""
    mixing = torch.randn(6, 6, generator=seeded(1)) * torch.tensor([8, 3, 1, 1, 0.5, 0.2])[:, None]
    maps = [
        torch.einsum("ck,nkhw->nchw", mixing, torch.randn(count, 6, 4, 3, generator=seeded(count))) + shift
        for count, shift in ((60, 5.0), (5, torch.arange(6)[:, None, None]))
    ]
    parts = [[x, x[:, :2] * 3 - 7] if own else [x] for x in maps]
    return [Moments.of(zip(*part, strict=True)) for part in parts], maps


def test_parts_are_in_the_deviations_that_they_have_within_classes() -> None:
    known, maps = usual()
    space = Space.of(known, width=4)
    parts = [space(Seen(x)).maps.double() for x in maps]
    within = np.mean([part.var((0, 2, 3), correction=0).numpy() for part in parts], axis=0)
    np.testing.assert_allclose(space.deviations, np.sqrt(within), rtol=1e-3)
    middle = sum(part.mean((0, 2, 3)) for part in parts) / 2
    torch.testing.assert_close(middle, torch.zeros(6).double(), atol=1e-4, rtol=0)
    for one, part in zip(known, parts, strict=True):
        turned = space.turned(one[0])
        flat = part.permute(1, 0, 2, 3).flatten(1)
        torch.testing.assert_close(turned.mean, flat.mean(1), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(turned.covariance, torch.cov(flat, correction=0), rtol=1e-3, atol=1e-3)


def test_directions_in_which_good_pictures_hardly_vary_are_not_blown_up() -> None:
    covariance = torch.diag(torch.tensor([9.0, 1.0, 1e-6])).double()
    space = Space.of([[Moments(torch.zeros(3).double(), covariance)]], standardised=False)
    least = FAINTEST * (3 + 1 + 1e-3) / 3
    torch.testing.assert_close(space.deviations, torch.tensor([3.0, 1.0, least]), rtol=1e-4, atol=0)


def test_pictures_are_where_their_classes_are() -> None:
    known, maps = usual()
    space = Space.of(known, width=4)
    looks = space.looks(known)
    assert looks.shape == (2, 4)
    for number, x in enumerate(maps):
        images = space(Seen(x)).image
        torch.testing.assert_close(images.norm(dim=1), torch.ones(len(x)))
        mean = (space(Seen(x)).maps.mean((0, 2, 3)) / space.deviations)[:4]
        torch.testing.assert_close(looks[number], F.normalize(mean, dim=0), rtol=1e-3, atol=1e-4)
        assert ((images @ looks.T).argmax(1) == number).float().mean() > 0.9
    assert Space.of(known, width=99).width == 6


def test_the_pictures_of_a_language_stay_where_they_are() -> None:
    known, maps = usual(own=True)
    space = Space.of(known, width=9)
    image, patches = torch.randn(5, 9), maps[1][:, :2] * 3 - 7
    seen = space(Seen(maps[1], patches, image))
    assert seen.image is image
    assert seen.patches is patches
    assert space.width == 9


def test_maps_and_patches_are_one_and_come_apart() -> None:
    known, maps = usual(own=True)
    space = Space.of(known, width=9)
    patches = [x[:, :2] * 3 - 7 for x in maps]
    stacked = [
        space.stack(space(Seen(x, own, torch.zeros(len(x), 9)))) for x, own in zip(maps, patches, strict=True)
    ]
    both = [part[:, 6:].permute(1, 0, 2, 3).flatten(1).double() for part in stacked]
    mean = sum(x.mean(1) for x in both) / 2
    square = sum(x.square().mean(1) for x in both) / 2
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(square, torch.ones(2).double(), rtol=1e-3, atol=0)
    apart = space.apart(stacked[0])
    assert torch.equal(apart.maps, stacked[0][:, :6])
    torch.testing.assert_close(apart.patches, patches[0], rtol=1e-4, atol=1e-3)
    alone = Space.of(usual()[0], width=4)
    assert alone.apart(alone.stack(Seen(maps[0]))).patches is None
    some = Seen(maps[0], patches[0]).some(slice(None, None, 2))
    assert some.patches is not None
    assert torch.equal(some.patches, patches[0][::2])
    assert Seen(maps[0]).some(slice(2)).patches is None


def test_patches_are_taken_to_texts_by_regression() -> None:
    taking = torch.randn(5, 3, generator=seeded())
    patches = torch.randn(200, 3, 2, 2, generator=seeded(1))
    every = [Seen(torch.zeros(10, 1, 2, 2), some, some.mean((2, 3)) @ taking.T) for some in patches.split(10)]
    torch.testing.assert_close(to_texts([every[:15], every[15:]]), taking, rtol=0.05, atol=0.05)


def test_patches_are_taken_to_texts_by_all_classes_alike() -> None:
    one = Seen(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([[1.0]]))
    other = one._replace(image=torch.tensor([[-1.0]]))
    torch.testing.assert_close(to_texts([[one] * 9, [other]]), torch.zeros(1, 1), rtol=0, atol=1e-6)
