import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.nets.distillation import Moments
from blemish.nets.runtime import export
from blemish.nets.uniad import (
    FAINT,
    FAINTEST,
    Attention,
    Principal,
    Reconstruction,
    image_score,
    jitter,
    mixed,
    neighbour_mask,
    reconstruction_error,
)

GRID = (6, 9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0, *, near: bool = False) -> Reconstruction:
    """Sharp attention, random biases and gains: what is all but even, zero or one would hide slips."""
    torch.manual_seed(seed)
    net = Reconstruction(6, GRID, width=16, heads=2, depth=2, hidden=24, neighbours=3, near=near)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.mul_(3 if "inputs.weight" in name else 1)
            weight.mul_(100 if name == "output.weight" else 1)
            weight.add_(torch.randn(weight.shape), alpha=0.3 if weight.ndim == 1 else 0)
    return net.eval()


def odd_half(cells: int) -> int:
    return max(n for n in (1, *range(cells // 2 + 1)) if n % 2)


@given(st.integers(1, 9), st.integers(1, 12), st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7]))
@settings(deadline=None, max_examples=60)
def test_neighbour_mask_is_the_window_around_each_patch(
    rows: int, columns: int, high: int, wide: int
) -> None:
    if rows == columns == 1:
        with pytest.raises(UsageError, match="one cell"):
            neighbour_mask((1, 1), (high, wide))
        return
    mask = neighbour_mask((rows, columns), (high, wide)).view(rows, columns, rows, columns)
    down, across = min(high, odd_half(rows)) // 2, min(wide, odd_half(columns)) // 2
    for row, column in np.ndindex(rows, columns):
        expected = torch.zeros(rows, columns, dtype=torch.bool)
        expected[max(row - down, 0) : row + down + 1, max(column - across, 0) : column + across + 1] = True
        assert torch.equal(mask[row, column], expected)
        assert not expected.all()


def test_windows_of_the_published_size_and_on_smaller_grids() -> None:
    assert [int(neighbour_mask((side, side), 7).sum(1).max()) for side in (14, 16, 13, 8, 7, 4, 2)] == [
        49, 49, 25, 9, 9, 1, 1
    ]  # fmt: skip
    for size in (0, -1, 4, (3, 6)):
        with pytest.raises(UsageError, match="odd"):
            neighbour_mask((14, 14), size)


def test_number_of_parameters() -> None:
    net = Reconstruction(272, (14, 14))
    assert sum(weight.numel() for weight in net.parameters()) == 7_717_392  # published: 7.7 M
    with pytest.raises(UsageError, match="8 heads"):
        Reconstruction(272, (14, 14), width=100)


def definition(state: dict[str, Tensor], maps: Tensor, near: bool) -> Tensor:
    """The network as its specification tells it, by torch's own attention, from the weights alone."""
    rows, columns = maps.shape[-2:]
    places = torch.stack(
        [torch.cat([state["columns"][c], state["rows"][r]]) for r in range(rows) for c in range(columns)]
    )[:, None]
    barred = torch.zeros(rows, columns, rows, columns, dtype=torch.bool)
    for row, column in np.ndindex(rows, columns):
        barred[row, column, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    bars = torch.zeros(2, rows * columns, rows * columns)
    if near:
        for head, one, other in np.ndindex(bars.shape):
            away = math.hypot(one // columns - other // columns, one % columns - other % columns)
            bars[head, one, other] = -away * (2, 1)[head]
    bars[:, barred.view(rows * columns, -1)] = -torch.inf

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normal(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def look(x: Tensor, seen: Tensor, name: str) -> Tensor:
        inputs, outputs = (
            [state[f"{name}.{part}.{kind}"] for kind in ("weight", "bias")] for part in ("inputs", "output")
        )
        return F.multi_head_attention_forward(
            x + places, seen + places, seen, 16, 2, *inputs, None, None, False, 0.0, *outputs,
            training=False, need_weights=False, attn_mask=bars.repeat(len(maps), 1, 1),
        )[0]  # fmt: skip

    def think(x: Tensor, name: str) -> Tensor:
        return linear(linear(x, f"{name}.think.0").relu(), f"{name}.think.3")

    memory = linear(maps.flatten(2).permute(2, 0, 1), "input")
    for name in ("encoder.0", "encoder.1"):
        memory = normal(memory + look(memory, memory, f"{name}.looks.0"), f"{name}.norms.0")
        memory = normal(memory + think(memory, name), f"{name}.norms.1")
    before = memory
    for name, queries in zip(("decoder.0", "decoder.1"), state["queries"], strict=True):
        x = queries[0][:, None].repeat(1, len(maps), 1)
        x = normal(x + look(x, memory, f"{name}.looks.0"), f"{name}.norms.0")
        x = normal(x + look(x, before, f"{name}.looks.1"), f"{name}.norms.1")
        before = normal(x + think(x, name), f"{name}.norms.2")
    return linear(normal(before, "norm"), "output").permute(1, 2, 0).reshape(maps.shape)


@pytest.mark.parametrize("near", [False, True])
@torch.no_grad()
def test_the_network_is_that_of_its_definition(near: bool) -> None:
    net, maps = network(near=near), torch.randn(3, 6, *GRID, generator=seeded())
    expected = definition(net.state_dict(), maps, near)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(maps), expected, rtol=1e-4, atol=1e-5)
    for table in (net.rows, net.columns):
        before = table.clone()
        table.copy_(table.flip(0))
        assert (net(maps) - expected).abs().amax((1, 2, 3)).min() > 1e-2
        table.copy_(before)


def test_starting_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    net = Reconstruction(64, (14, 14), depth=1)
    for name, (outputs, inputs) in {
        "encoder.0.looks.0.inputs": (768, 256),
        "decoder.0.looks.1.output": (256, 256),
        "decoder.0.think.0": (1024, 256),
        "input": (256, 64),
    }.items():
        part, most = net.get_submodule(name), math.sqrt(6 / (inputs + outputs))
        assert 0.99 * most < part.weight.abs().max() <= most
        assert not part.bias.any()
    for table in (net.rows, net.columns):
        assert 0 <= table.min() < 0.01
        assert 0.99 < table.max() <= 1
    assert net.queries.detach().std() == pytest.approx(1, abs=0.02)
    assert net.output.weight.abs().max() <= 0.01 * math.sqrt(6 / (256 + 64))


def test_no_patch_finds_anything_in_its_neighbourhood() -> None:
    torch.manual_seed(0)
    look, barred = Attention(8, 2, 0.0), neighbour_mask(GRID, 3)
    x, seen = torch.randn(2, 54, 8), torch.randn(2, 54, 8, requires_grad=True)
    found = look(x, seen, torch.randn(54, 8), torch.zeros(54, 54).masked_fill(barred, -torch.inf))
    for patch, neighbours in {0: 4, 3: 6, 30: 9, 53: 4}.items():
        (slope,) = torch.autograd.grad(found[:, patch].square().sum(), seen, retain_graph=True)
        assert torch.equal(slope.abs().amax((0, 2)) == 0, barred[patch])
        assert barred[patch].sum() == neighbours


def test_dropout_is_one_draw_for_the_whole_batch() -> None:
    net = network().train()
    maps = torch.randn(1, 6, *GRID, generator=seeded()).repeat(3, 1, 1, 1)
    with torch.no_grad():
        one, two = net(maps), net(maps)
        torch.testing.assert_close(one, one[:1].expand_as(one))
        assert (one - two).abs().max() > 1e-2
        look = Attention(8, 2, 0.25)
        x = look.drop.train()(torch.ones(2, 400, 300))
    assert sorted(set(x.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert x.mean() == pytest.approx(1, abs=0.01)


def test_jitter_is_as_long_as_it_should_be_and_drawn_anew() -> None:
    maps = torch.rand(8, 272, 14, 14, generator=seeded(1)) * torch.arange(1, 15)
    noisy = jitter(maps, generator=seeded())
    assert torch.equal(noisy, jitter(maps, generator=seeded()))
    assert not torch.equal(noisy, jitter(maps, generator=seeded(1)))
    ratio = (noisy - maps).norm(dim=1) / maps.norm(dim=1)
    assert ratio.mean() == pytest.approx(20 / math.sqrt(272), rel=0.01)
    assert ratio.std() < 0.1  # of every patch its own length
    assert torch.equal(jitter(maps, probability=0.0, generator=seeded()), maps)
    some = jitter(torch.ones(400, 2, 1, 1), probability=0.3, generator=seeded())
    assert float((some != 1).all(1).float().mean()) == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("kind", ["sq", "l2", "cos", "both"])
def test_errors_are_those_of_their_definitions(kind: str) -> None:
    maps, rebuilt = torch.randn(2, 3, 7, 4, 5, generator=seeded())
    a, b = maps.double().numpy(), rebuilt.double().numpy()
    distance, length, other = (np.linalg.norm(each, axis=1) for each in (a - b, a, b))
    turned = (1 - np.einsum("nchw,nchw->nhw", a, b) / (length * other)) / 2
    expected = {"sq": distance**2, "l2": distance, "cos": turned, "both": distance * turned}[kind]
    np.testing.assert_allclose(reconstruction_error(maps, rebuilt, kind), expected, rtol=1e-5, atol=1e-6)
    assert reconstruction_error(maps, maps, kind).max() < 1e-6
    assert reconstruction_error(maps, 1e-3 * maps, "cos").min() >= 0


@pytest.mark.parametrize(("size", "side"), [((224, 224), 16), ((112, 448), 16), ((56, 28), 3), ((6, 4), 1)])
def test_image_score_is_the_highest_mean_of_a_square(size: tuple[int, int], side: int) -> None:
    error = torch.rand(2, *size, generator=seeded())
    means = sliding_window_view(error.double().numpy(), (side, side), axis=(1, 2)).mean((3, 4))
    np.testing.assert_allclose(image_score(error), means.max((1, 2)), rtol=1e-5)
    torch.testing.assert_close(image_score(error, 1e4), error.mean((1, 2)))


def correlated(count: int, seed: int) -> Tensor:
    """Maps with six channels of very different sizes, one of them always the same."""
    mixing = torch.randn(6, 6, generator=seeded(seed)) * torch.tensor([9, 3, 1, 1, 0.3, 0.0])[:, None]
    maps = torch.einsum("ck,nkhw->nchw", mixing, torch.randn(count, 6, 4, 3, generator=seeded(seed + 1)))
    return maps + 5 * torch.rand(6, 1, 1, generator=seeded(seed + 2))


CLASSES = correlated(200, 0), correlated(40, 10), correlated(2, 20)
CLASSES[0][:, 5] = CLASSES[1][:, 5] = CLASSES[2][:, 5] = 1.5
USUAL = [Moments.of([x] for x in maps)[0] for maps in CLASSES]


@pytest.mark.parametrize("standardised", [True, False])
def test_principal_directions_are_those_of_equal_classes(standardised: bool) -> None:
    vectors = np.concatenate([maps.double().permute(0, 2, 3, 1).reshape(-1, 6) for maps in CLASSES])
    weights = np.concatenate([np.full(len(maps) * 12, 1 / len(maps)) for maps in CLASSES])
    mean = np.average(vectors, axis=0, weights=weights)
    covariance = np.cov(vectors.T, aweights=weights, ddof=0)
    np.testing.assert_allclose(mixed(USUAL).mean, mean, rtol=1e-9)
    np.testing.assert_allclose(mixed(USUAL).covariance, covariance, rtol=1e-9, atol=1e-9)
    scale = np.sqrt(covariance.diagonal()) if standardised else np.ones(6)
    scale = np.maximum(scale, FAINT * scale.mean())
    directions = np.linalg.svd(covariance / np.outer(scale, scale))[0][:, :3]
    principal, new = Principal.of(USUAL, 3, standardised=standardised), correlated(2, 30)
    parts = np.einsum("ck,nchw->nkhw", directions, (new.numpy() - mean[:, None, None]) / scale[:, None, None])
    signs = np.sign(np.einsum("kc,ck->k", principal.basis.numpy(), directions))[:, None, None]
    np.testing.assert_allclose(principal(new), signs * parts, rtol=1e-4, atol=1e-4 * abs(parts).max())
    back = np.einsum("ck,nkhw->nchw", directions, parts) * scale[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(principal.inverse(principal(new)), back, rtol=1e-3, atol=1e-3)


def test_all_principal_directions_give_the_maps_back() -> None:
    principal, new = Principal.of(USUAL, 6), correlated(2, 30)
    torch.testing.assert_close(principal.inverse(principal(new)), new, rtol=1e-3, atol=1e-3)
    woken = CLASSES[0].clone()
    woken[:, 5] += 1.0  # a channel that no good picture has anything in
    assert 5 < (principal(woken) - principal(CLASSES[0])).norm(dim=1).mean() < 500
    again = Principal(6, 6)
    again.load_state_dict(principal.state_dict())
    assert torch.equal(again(new), principal(new))
    for kept in (0, 7):
        with pytest.raises(UsageError, match="1 to 6"):
            Principal.of(USUAL, kept)


@pytest.mark.parametrize("whiten", [0.5, 1.0])
def test_whitened_parts_vary_alike_but_for_those_that_hardly_vary(whiten: float) -> None:
    plain, principal = (Principal.of(USUAL, 6, whiten=share) for share in (0.0, whiten))
    assert torch.equal(plain.spread, torch.ones(6))
    varying, alike = (
        (net.kernel.double() @ mixed(USUAL).covariance @ net.kernel.double().T).diagonal().clamp(min=0).sqrt()
        for net in (plain, principal)
    )
    least = FAINTEST * varying.square().mean().sqrt()
    assert 0 < (varying < least).sum() < 3
    torch.testing.assert_close(
        alike, varying / varying.clamp(min=float(least)) ** whiten, rtol=1e-4, atol=1e-4
    )
    new = correlated(2, 30)
    torch.testing.assert_close(principal.inverse(principal(new)), new, rtol=1e-3, atol=1e-3)


class Comparison(nn.Module):
    """What a scorer makes of maps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.principal, self.kind = Principal.of(USUAL, 4), kind
        torch.manual_seed(0)
        self.net = Reconstruction(4, GRID, width=16, heads=2, depth=2, hidden=24)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.principal(maps)
        error = reconstruction_error(parts, self.net(parts), self.kind)
        large = F.interpolate(error[:, None], (40, 64), mode="bilinear", align_corners=False)[:, 0]
        return image_score(large), large


@pytest.mark.parametrize("kind", ["sq", "l2", "cos"])
def test_the_comparison_exports(kind: str) -> None:
    net = Comparison(kind).eval()
    session = onnxruntime.InferenceSession(
        export(net, 6, GRID, ["score", "map"]), providers=["CPUExecutionProvider"]
    )
    for count in (1, 5):
        maps = torch.randn(count, 6, *GRID, generator=seeded())
        with torch.no_grad():
            expected = net(maps)
        for found, wanted in zip(session.run(None, {"pixels": maps.numpy()}), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def waves(count: int, generator: torch.Generator) -> Tensor:
    """Two crossing waves at random phases, in eight channels that each follow them in its own way."""
    phases = 2 * math.pi * torch.rand(count, 2, 1, 1, 1, generator=generator)
    lags = torch.arange(8)[:, None, None] * math.pi / 4
    down, across = torch.meshgrid(torch.arange(8) * math.pi / 4, torch.arange(8) * math.pi / 4, indexing="ij")
    return torch.sin(down + phases[:, 0] + lags) + torch.sin(across + phases[:, 1] + 3 * lags)


def test_it_learns_what_belongs_and_not_what_does_not() -> None:
    torch.manual_seed(0)
    net = Reconstruction(8, (8, 8), width=32, heads=2, depth=1, hidden=64, dropout=0.0)
    optimiser, draws = torch.optim.AdamW(net.parameters(), lr=3e-3), seeded()
    held = waves(16, seeded(1))
    foreign, place = held.clone(), (slice(None), slice(None), 4, 3)
    foreign[place] = waves(16, seeded(2))[place]

    @torch.no_grad()
    def error(maps: Tensor) -> Tensor:
        net.eval()
        return reconstruction_error(maps, net(maps), "sq")

    before = error(held).mean()
    for _ in range(100):
        maps = waves(16, draws)
        loss = F.mse_loss(net.train()(jitter(maps, 0.3 * math.sqrt(8), generator=draws)), maps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after, off = error(held), error(foreign)
    assert after.mean() < 0.05 * before
    assert off[:, 4, 3].mean() > 0.5 * before
    off[:, 4, 3] = 0  # what belongs is still rebuilt around it
    assert off.mean() < 2 * after.mean()


def test_it_learns_what_a_place_usually_has_within_a_few_dozen_updates() -> None:
    """Answers of a random output layer taught it to give every patch the same one: after 400 updates it knew
    nothing at all of real maps. Here each place has a vector of its own in all maps, with some noise."""
    torch.manual_seed(0)
    net = Reconstruction(32, (8, 8), width=64, heads=4, depth=3, hidden=64, dropout=0.0)
    usual, generator = torch.randn(32, 8, 8, generator=seeded()), seeded(1)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(60):
        maps = usual + 0.3 * torch.randn(4, 32, 8, 8, generator=generator)
        loss = F.mse_loss(net(maps), maps)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert float(loss.detach()) < 0.7 * float(maps.square().mean())


def test_outside_of_training_no_share_is_so_small_that_it_takes_long() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, 0.0)
    with torch.no_grad():
        attention.inputs.weight.mul_(20)
    x, places = torch.randn(2, 12, 16) * 3, torch.zeros(12, 16)
    bars = torch.zeros(12, 12).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    with torch.no_grad():
        plain = attention.train()(x, x, places, bars)
        torch.testing.assert_close(attention.eval()(x, x, places, bars), plain)
    graph = export(Looks(attention, bars).eval(), 3, (4, 4), ["out"])
    names = [node.output[0] for node in onnx.load_from_string(graph).graph.node if node.op_type == "Softmax"]
    model = onnx.load_from_string(graph)
    model.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in names])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shares = session.run(names, {"pixels": np.random.default_rng(0).random((2, 3, 4, 4), np.float32)})[0]
    assert shares.min() > np.finfo(np.float32).tiny
    assert shares.min() < 1e-20


class Looks(nn.Module):
    """Of a picture's pixels at one another."""

    def __init__(self, attention: Attention, bars: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.bars = F.pad(bars, (0, 4, 0, 4))

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.pad(pictures.flatten(2).transpose(1, 2), (0, 13)) * 30
        return self.attention(x, x, torch.zeros_like(x[0]), self.bars)
