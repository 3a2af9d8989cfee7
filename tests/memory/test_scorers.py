"""The measures against scikit-learn and against their definitions, in torch and as graphs."""

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.memory.scorers import MEASURES, GlobalGaussian, Nearest, ledoit_wolf
from blemish.nets.runtime import export


def clusters(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(5, (count,), generator=draw)
    centres = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 5
    spread = torch.tensor([0.3, 0.5, 1, 2, 3])
    return centres[which] + torch.randn(count, 8, generator=draw) * spread[which, None]


def distances(queries: Tensor, rows: Tensor) -> NDArray[np.float64]:
    return (queries[:, None].double() - rows.double()).square().sum(-1).numpy()


def by_definition(name: str, queries: Tensor, rows: Tensor, count: int) -> NDArray[np.float64]:
    apart = distances(queries, rows)
    order = apart.argsort(1)[:, :count]
    near = np.take_along_axis(apart, order, 1)
    within = distances(rows, rows)
    match name:
        case "knn":
            return near.mean(1)
        case "kthnn":
            return near[:, -1]
        case "kdist_ratio":
            density = 1 / np.sort(within, 1)[:, count - 1]
            return density[order].mean(1) * near[:, -1]
        case "ldof":
            between = [np.sqrt(within[np.ix_(group, group)]).sum() / (count * (count - 1)) for group in order]
            return np.sqrt(near).mean(1) / between
    oracle = LocalOutlierFactor(n_neighbors=count, novelty=True, algorithm="brute").fit(rows.double().numpy())
    return -oracle.score_samples(queries.double().numpy())


@pytest.mark.parametrize(
    ("name", "count"),
    [(name, count) for name, measure in MEASURES.items() for count in (1, 2, 9) if count >= measure.fewest],
)
def test_measures_are_their_definitions(name: str, count: int) -> None:
    rows, queries = clusters(300, 1), clusters(80, 2)
    scores, nearest = MEASURES[name](rows, count)(queries.reshape(2, 40, 8))
    np.testing.assert_allclose(scores.flatten(), by_definition(name, queries, rows, count), rtol=1e-4)
    np.testing.assert_array_equal(nearest.flatten(), distances(queries, rows).argmin(1))


@pytest.mark.parametrize("name", MEASURES)
def test_near_duplicates_far_from_the_origin_keep_their_digits_and_order(name: str) -> None:
    close = 1000 + 0.1 * torch.randn(36, 8, generator=torch.Generator().manual_seed(0))
    rows, queries = torch.cat((close[:6], torch.zeros(1, 8))), close[6:]
    scores, nearest = MEASURES[name](rows, 6)(queries[None])
    np.testing.assert_allclose(scores[0], by_definition(name, queries, rows, 6), rtol=1e-4)
    np.testing.assert_array_equal(nearest[0], distances(queries, rows).argmin(1))


def test_lof_counts_repeated_rows_as_scikit_learn_does() -> None:
    rows = torch.cat((clusters(60, 1), clusters(20, 1)))  # twenty rows twice: fewer copies than neighbours
    scores, _ = MEASURES["lof"](rows, 4)(clusters(30, 2)[None])
    np.testing.assert_allclose(scores[0], by_definition("lof", clusters(30, 2), rows, 4), rtol=1e-4)


@pytest.mark.parametrize("name", MEASURES)
def test_repeated_rows_leave_scores_finite_and_in_order(name: str) -> None:
    rows = clusters(6, 1).repeat_interleave(20, 0)
    measure = MEASURES[name](rows, 5)
    at_a_row, near, far = measure((rows[0] + torch.tensor([0, 0.01, 1])[:, None])[None])[0][0].tolist()
    assert np.isfinite(far)
    assert at_a_row < near < far


@pytest.mark.parametrize("name", MEASURES)
def test_neighbours_are_cut_to_what_the_rows_allow(name: str) -> None:
    rows, queries = clusters(7, 1), clusters(5, 2)[None]
    assert MEASURES[name](rows, 99).count == 6
    torch.testing.assert_close(MEASURES[name](rows, 99)(queries)[0], MEASURES[name](rows, 6)(queries)[0])
    with pytest.raises(UsageError, match=f"{name} needs . neighbours or more, and 9 of a bank of 1 rows"):
        MEASURES[name](rows[:1], 9)


def test_one_row_is_a_bank() -> None:
    row, queries = clusters(1, 1), clusters(5, 2)
    distance, number = Nearest(row)(queries[None])
    torch.testing.assert_close(distance[0], (queries - row).norm(dim=1))
    assert not number.any()


class OfPictures(nn.Module):
    def __init__(self, inner: nn.Module, *, pooled: bool = False) -> None:
        super().__init__()
        self.inner, self.pooled = inner, pooled

    def forward(self, pictures: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.inner(pictures.mean((2, 3)) if self.pooled else pictures.flatten(2).transpose(1, 2))


def session(module: nn.Module, outputs: list[str]) -> onnxruntime.InferenceSession:
    graph = export(module, 8, (4, 5), outputs)
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_the_same_as_graphs(name: str) -> None:
    module = OfPictures(MEASURES[name](clusters(300, 1), 9))
    pictures = clusters(3 * 20, 2).reshape(3, 20, 8).transpose(1, 2).reshape(3, 8, 4, 5)
    graph = session(module, ["scores", "nearest"])
    for batch in (pictures, pictures[:1]):
        scores, nearest = module(batch)
        theirs = graph.run(None, {"pixels": batch.numpy()})
        np.testing.assert_allclose(theirs[0], scores, rtol=1e-4)
        np.testing.assert_array_equal(theirs[1], nearest)
        assert theirs[1].dtype == np.int64


@pytest.mark.parametrize(("images", "channels"), [(200, 8), (12, 40), (30, 1), (5, 5)])
def test_ledoit_wolf(images: int, channels: int) -> None:
    draw = torch.Generator().manual_seed(images)
    rows = (
        torch.randn(images, channels, generator=draw).double()
        @ torch.randn(channels, channels, generator=draw).double()
    )
    mean, covariance = ledoit_wolf(rows)
    oracle = LedoitWolf().fit(rows.numpy())
    np.testing.assert_allclose(mean, oracle.location_, atol=1e-12)
    np.testing.assert_allclose(covariance, oracle.covariance_, rtol=1e-6, atol=1e-12)


def test_global_gaussian_in_torch_and_as_a_graph() -> None:
    draw = torch.Generator().manual_seed(0)
    good, pictures = torch.rand(40, 8, generator=draw), torch.rand(3, 8, 4, 5, generator=draw)
    module = OfPictures(GlobalGaussian.of(good), pooled=True)
    directions = [nn.functional.normalize(part.double()).numpy() for part in (good, pictures.mean((2, 3)))]
    expected = np.sqrt(LedoitWolf().fit(directions[0]).mahalanobis(directions[1]))
    np.testing.assert_allclose(module(pictures), expected, rtol=1e-4)
    ours = session(module, ["score"]).run(None, {"pixels": pictures.numpy()})[0]
    np.testing.assert_allclose(ours, module(pictures), rtol=1e-4)


def test_global_gaussian_of_images_all_alike() -> None:
    module = GlobalGaussian.of(torch.ones(5, 8))
    same, other = module(torch.stack((torch.ones(8), torch.arange(8.0)))).tolist()
    assert same < other < np.inf
