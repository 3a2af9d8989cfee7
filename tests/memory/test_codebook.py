import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.memory.codebook import Codes, means


def clusters(count: int = 12, each: int = 200, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(count, width, generator=drawn)
    return centres, (centres[:, None] + 0.05 * torch.randn(count, each, width, generator=drawn)).flatten(0, 1)


def test_what_good_pictures_have_comes_back_and_nothing_else_does() -> None:
    centres, vectors = clusters()
    codes = Codes.of(vectors, 24, seed=0)
    assert (codes(vectors[None])[0] - vectors).norm(dim=1).max() < 0.5
    strange = centres[:1] + 3
    assert (codes(strange[None])[0] - strange).norm() > 2


def test_what_is_rare_keeps_a_code_of_its_own() -> None:
    _, vectors = clusters()
    rare = vectors.mean(0) + 30
    codes = Codes.of(torch.cat([vectors, rare[None]]), 16, seed=1)
    assert (codes.codes - rare).norm(dim=1).min() < 1e-3
    assert (codes(rare[None, None])[0, 0] - rare).norm() < 1e-2


def test_the_answer_is_a_blend_without_jumps() -> None:
    _, vectors = clusters(count=2)
    codes = Codes.of(vectors, 2, seed=0)
    steps = torch.linspace(0, 1, 2001)[:, None]
    way = codes((vectors[:1] + steps * (vectors[-1] - vectors[0]))[None])[0]
    apart = (vectors[-1] - vectors[0]).norm()
    assert (way[1:] - way[:-1]).norm(dim=1).max() < apart / 4


def test_the_same_seed_the_same_codes() -> None:
    _, vectors = clusters()
    first, again, other = (Codes.of(vectors, 24, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, other.codes)


@pytest.mark.parametrize("vectors", [torch.zeros(40, 3), torch.ones(2, 4), torch.eye(5)])
def test_fewer_different_vectors_than_codes(vectors: torch.Tensor) -> None:
    codes = Codes.of(vectors, 16, seed=0)
    assert 1 <= len(codes.codes) <= len(vectors)
    torch.testing.assert_close(codes(vectors[None])[0], vectors, atol=0.3, rtol=0)


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_means_of_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, group = torch.from_numpy(rng.normal(size=(30, 3))), torch.from_numpy(rng.integers(0, 6, 30))
    otherwise = torch.full((7, 3), 9.0, dtype=torch.float64)
    found = means(vectors, group, otherwise)
    for number, mean in enumerate(found):
        own = vectors[group == number]
        torch.testing.assert_close(mean, own.mean(0) if len(own) else otherwise[number])
