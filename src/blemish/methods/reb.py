"""REB: reducing the biases of remembered patches.

Paper: Lyu, Mo and Wong, "REB: Reducing Biases in Representation for Industrial Anomaly Detection",
arXiv 2308.12577.
Faithful: DefectMaker and the self-supervised adaptation of the backbone, with the published schedule in the
preset `paper`; LDKNN, the distance to the nearest remembered row less the local density around that row, with
the published density (mean squared distance to the K nearest of all vectors) as `--density paper`.
Ours: the density of a row is the distance at which good patches of other images meet it, smoothed over its
neighbours (`--density represented`). On a coreset the published one is inflated: greedy takes outliers, whose
nearest vectors are far. The same is then done for each place of the picture. How much of the density is taken
off is chosen for each product on painted defects. Batch norms keep their ImageNet statistics and the early
blocks are left as they are, unless told: short trainings are worse off otherwise.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.data import Samples
from blemish.defects import MAKERS, Source, faint, make
from blemish.errors import UsageError
from blemish.memory.bank import Bank, BankScorer
from blemish.memory.density import place_statistics, published_density, represented_distance
from blemish.memory.neighbours import nearest_elsewhere
from blemish.memory.patches import Rotation
from blemish.memory.plan import OUTSIDE_SECONDS, RUNTIME_MB, Plan
from blemish.memory.scorers import MEASURES, GlobalGaussian, Nearest
from blemish.memory.vectors import Vectors
from blemish.methods import _training, knn
from blemish.methods._bank import BankMethod
from blemish.methods._contract import Run, in_turn
from blemish.methods._registry import register
from blemish.nets.backbone import Backbone
from blemish.nets.proxy import Lower, Proxy, early_block, one_against_all, parts
from blemish.nets.runtime import Compiled

PERIOD = 1.1
"""Of the learning rate's cosine, in trainings: it ends before the rate reaches its floor."""
FLOOR = 1e-5
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
USUAL = 0.5
CHANCE = 2.0
"""Standard errors by which another share of the density must be better than the usual one."""
PAINTED = 128
HELD_ABOVE = 1.7
"""Memory of a forward and backward pass over what it keeps for gradients: gradients, and what the allocator
keeps for the next."""


@dataclass(frozen=True, kw_only=True)
class Config(knn.Config):
    updates: int = 0
    """Updates of the backbone on painted defects, as in the paper; 0 leaves it as it is."""
    head_updates: int = 20
    """Of these, the first that train only the classifier on top."""
    draws: int = 4
    """Good pictures in a forward pass. Each brings itself and one picture for each kind of defect."""
    forwards: int = 2
    """Forward passes whose gradients make up one update."""
    learning_rate: float = 0.03
    """Of the first update; it falls along a cosine."""
    maker: Literal["dm6", "cut3", "noise3", "blob2", "scar2", "clump2", "cutpaste3", "draem2"] = "dm6"
    """Which defects are painted."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """`train`: batch norms take the statistics of clean and painted pictures, as in the paper."""
    early: Literal["frozen", "train", "deep"] = "frozen"
    """The blocks before those that patch vectors come from; the paper trains them too. `deep`: only the
    block of the last tap learns."""
    compat: bool = False
    """Slips of the published code: doubled and missing moves, zero distances for own rows."""
    scorer: Literal["ldknn", "knn", "kthnn", "kdist_ratio", "lof", "ldof", "gde"] = "ldknn"
    """`ldknn`: REB's. The others are what the paper compares it with, on the same rows."""
    alpha: float | Literal["auto"] = "auto"
    """How much of the local density is taken off, 0: none; `auto` asks painted defects. The paper: 1."""
    map_alpha: float = 0.25
    """The same for the anomaly map, which tells where rather than whether; `paper` uses alpha for both."""
    density: Literal["represented", "paper"] = "represented"
    """`represented`: how far good patches of other images lie from a row. `paper`: REB's LD_K."""
    squared: bool = False
    """Squared distances, as in the paper."""
    neighbours: int = 10
    """Over how many rows or vectors a density is averaged (the paper's K: 9), or a scorer looks."""
    places: bool = True
    """Whether, density taken off, a score is seen against good ones at the same place; not with `paper`."""
    stride: Literal["1", "3"] = "1"
    """Of the 3×3 means whose highest is the image score; the paper's 3 leaves out the last cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        leasts = {"updates": 0, "head_updates": 0, "draws": 1, "forwards": 1, "neighbours": 1}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate}: give a number above 0.")


PAPER: dict[str, Any] = {
    "updates": 300,
    "head_updates": 39,
    "draws": 48,
    "forwards": 3,
    "batch_norm": "train",
    "early": "train",
    "rows": 0,
    "whiten": 0.0,
    "alpha": 1.0,
    "density": "paper",
    "squared": True,
    "neighbours": 9,
    "stride": "3",
}


def jackknife(gains: Tensor, numbers: Tensor) -> Tensor:
    """Standard error of the mean of `gains` (painted, good), found by leaving out one picture at a time.

    `numbers` tell which good picture each painted one was made of: the two are left out together.
    """
    painted, good = gains.shape
    own = torch.zeros(good)
    rest = gains.sum() - gains.sum(0)
    rest -= own.index_add(0, numbers, gains.sum(1) - gains[torch.arange(painted), numbers])
    counts = (painted - own.index_add(0, numbers, torch.ones(painted))) * (good - 1)
    left = rest / counts
    return ((good - 1) / good * (left - left.mean()).square().sum()).sqrt()


class Met(NamedTuple):
    """For each patch vector the distance to the row that answers for it, and that row's number."""

    distance: Tensor
    answer: Tensor


class Batch(NamedTuple):
    pictures: Tensor
    labels: Tensor


class Adaptation(_training.Task):
    """Tell a clean picture and each kind of painted defect apart, first by the head alone, then by all."""

    label = "adapting"
    network: Proxy

    def __init__(
        self, backbone: Backbone, taps: tuple[str, ...], source: Source, config: Config, seed: int
    ) -> None:
        self.maker = MAKERS[config.maker]
        self.config, self.source, self.seed = config, source, seed
        self.updates, self.forwards = config.updates, config.forwards
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Proxy(backbone, 1 + len(self.maker.labels))
        self.network.to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = early_block(backbone, {"frozen": taps, "deep": taps[-1:], "train": ()}[config.early])
        self.lower: Compiled | None = None
        self.after: str | None = None

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.network.parameters(), lr=self.config.learning_rate, momentum=0.9, weight_decay=3e-5
        )

    def rate(self, update: int) -> float:
        """0.03 at update 1, 0.02898 at 40, 0.01728 at 150 and 6.58e-4 at 300, with the paper's settings."""
        turn = math.pi * (update - 1) / (PERIOD * self.updates)
        return FLOOR + (self.config.learning_rate - FLOOR) * (1 + math.cos(turn)) / 2

    def phase(self, update: int) -> None:
        network, config = self.network, self.config
        after = network.deepest if update <= config.head_updates else self.frozen
        if self.lower is None or after != self.after:
            self.after, self.lower = after, self.compile(after)
        lower, upper = parts(network.backbone, after)
        for part in lower:
            part.requires_grad_(False).eval()
        for part in upper:
            part.requires_grad_(True)
            for layer in part.modules():
                layer.train(config.batch_norm == "train" and isinstance(layer, nn.BatchNorm2d))
        network.head.train()

    def compile(self, last: str | None) -> Compiled | None:
        """What does not learn at the time: the runtime that inspects is several times faster at it."""
        if last is None:
            return None
        device = next(self.network.parameters()).device
        return Compiled(Lower(self.network.backbone, last), 3, self.source.size, device)

    def draw(self, update: int, forward: int) -> Batch:
        """Pictures in a shuffled order that begins anew when all have had their turn."""
        views: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for place in range(self.config.draws):
            number = ((update - 1) * self.forwards + forward) * self.config.draws + place
            turn, rank = divmod(number, len(self.source))
            picture = int(np.random.default_rng([self.seed, turn]).permutation(len(self.source))[rank])
            draw = make(
                self.maker, self.source, picture, seed=self.seed, epoch=turn, compat=self.config.compat
            )
            views.append(draw.views)
            labels += range(len(draw.views))
        pictures = np.concatenate(views).transpose(0, 3, 1, 2)
        return Batch(torch.from_numpy(np.ascontiguousarray(pictures)), torch.tensor(labels))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        pictures = batch.pictures.float() / 255
        if self.lower is not None:
            pictures = self.lower.run(pictures)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return one_against_all(network(pictures, self.after), batch.labels)


@register
class REB(BankMethod):
    name: ClassVar[str] = "reb"
    paints = True
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {},
        "full": {"updates": 200},
        "paper": PAPER,
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.alpha = None if config.alpha == "auto" else float(config.alpha)
        self.stride = int(config.stride)
        self.whole: GlobalGaussian | None = None
        self.painted_on: Source | None = None

    def plan(self, train: Samples, run: Run) -> Plan:
        expected, config = super().plan(train, run), self.config
        if self.alpha is None and config.scorer == "ldknn":  # painted pictures take as long as good ones
            each = (expected.seconds - OUTSIDE_SECONDS) / len(train)
            expected = expected._replace(seconds=expected.seconds + PAINTED * each)
        if not config.updates:
            return expected
        smallest = replace(config, draws=1, head_updates=0)
        copied = deepcopy(self.patches.backbone)
        one = _training.probe(
            Adaptation(copied, self.patches.taps, self.source(train, run), smallest, run.seed), run
        )
        passes = config.updates * config.forwards * config.draws / run.devices
        held = RUNTIME_MB + HELD_ABOVE * config.draws * one.megabytes
        return expected._replace(
            seconds=expected.seconds + passes * one.seconds, megabytes=max(expected.megabytes, held)
        )

    @property
    def trains(self) -> bool:
        return bool(self.config.updates)

    def source(self, train: Samples, run: Run) -> Source:
        if self.painted_on is None:
            self.painted_on = run.source(train)
        return self.painted_on

    def adapt(self, train: Samples, run: Run) -> None:
        config = self.config
        if not config.updates:
            return
        if config.draws > len(train):
            run.say(
                f"A forward pass paints on {config.draws} images and there are {len(train)}, so it paints on "
                "some of them more than once."
            )
        source = self.source(train, run)
        task = Adaptation(self.patches.backbone, self.patches.taps, source, config, run.seed)
        losses = _training.train(task, run, _training.key(self.name, config, source, run))
        self.chosen["proxy_loss"] = _training.told(losses)["loss"]

    def remember(self, vectors: Vectors, train: Samples, run: Run) -> BankScorer:
        if self.config.scorer == "gde":
            self.whole = GlobalGaussian.of(torch.stack([block.mean(0) for _, block in vectors]))
        return super().remember(vectors, train, run)

    def bank(self, vectors: Vectors, picked: Tensor, rotation: Rotation, train: Samples, run: Run) -> Bank:
        config, plain = self.config, super().bank(vectors, picked, rotation, train, run)
        if config.neighbours >= len(vectors) and "bank_rows" not in self.chosen:
            run.say(
                f"{len(vectors)} patch vectors have no {config.neighbours} neighbours each: all are taken."
            )
        if config.scorer != "ldknn":
            return plain
        clean = self.met(vectors, plain)
        if config.density == "paper":
            apart = published_density(
                vectors, picked, config.neighbours, squared=config.squared, compat=config.compat
            )[:, -1]
        else:
            apart = represented_distance(*clean, plain.rows, config.neighbours)
        if self.alpha is None:
            painted, numbers = self.painted(plain, rotation, train, run)
            self.alpha = self.choose_alpha(plain, apart, clean, painted, numbers)
        return self.dense(plain, apart, clean, self.alpha)

    def met(self, vectors: Vectors, bank: Bank, images: Sequence[int] | None = None) -> Met:
        distance, answer = nearest_elsewhere(vectors, bank.rows, bank.sources, images)
        return Met(distance.square() if self.config.squared else distance, answer)

    def painted(self, bank: Bank, rotation: Rotation, train: Samples, run: Run) -> tuple[Met, Tensor]:
        """What painted pictures meet among the rows of images other than their own, whose numbers follow."""
        pictures, _, numbers = faint(self.source(train, run), PAINTED, seed=run.seed, order=in_turn(train))
        own = map(run.repainted, (train[int(number)] for number in numbers), pictures)
        blocks = (rotation(self.compiled(picture)[0]) for picture in own)
        vectors = Vectors.of(blocks, int(run.memory_mb * 1e6))
        return self.met(vectors, bank, numbers.tolist()), torch.from_numpy(numbers)

    def dense(self, plain: Bank, apart: Tensor, clean: Met, alpha: float) -> Bank:
        """The bank with this much of its rows' density taken off."""
        config, density, places = self.config, alpha * apart, plain.places
        if config.density == "paper":
            return replace(plain, density=density, map_density=density.clone())
        if config.places and alpha:
            grid = places.mean.shape
            scores = clean.distance - density[clean.answer]
            places = place_statistics(scores.reshape(-1, math.prod(grid)), grid)
        return replace(plain, density=density, map_density=config.map_alpha * apart, places=places)

    def choose_alpha(self, plain: Bank, apart: Tensor, clean: Met, painted: Met, numbers: Tensor) -> float:
        """Half of the density, or none where half tells painted from good images worse; or another share that
        does so better than these by more than chance."""
        wins = {}
        for alpha in ALPHAS:
            bank = self.dense(plain, apart, clean, alpha)
            good, bad = (bank.image_scores(*met, self.stride) for met in (clean, painted))
            wins[alpha] = (bad[:, None] > good).float() + 0.5 * (bad[:, None] == good)
        usual = USUAL if wins[USUAL].mean() >= wins[0.0].mean() else 0.0
        best, why = usual, f"nothing tells painted from good images better than {usual:g} by more than chance"
        for alpha, won in wins.items():
            gain = won - wins[usual]
            if gain.mean() > CHANCE * jackknife(gain, numbers) and won.mean() > wins[best].mean():
                best, why = alpha, "it tells painted from good images best"
        self.chosen |= {
            "alpha": best,
            "alpha_why": why,
            "alpha_auroc": {str(alpha): round(float(won.mean()), 4) for alpha, won in wins.items()},
        }
        return best

    def scorer(self, rotation: Rotation, bank: Bank, run: Run) -> BankScorer:
        config = self.config
        if config.scorer in MEASURES:
            measure = MEASURES[config.scorer](bank.rows, config.neighbours)
        else:
            measure = Nearest(bank.rows, squared=config.squared)
        return BankScorer(
            self.patches, rotation, bank, size=run.size, measure=measure, stride=self.stride, whole=self.whole
        )

    def weights(self, scorer: BankScorer) -> dict[str, Tensor]:
        if not self.config.updates:
            return super().weights(scorer)
        return {name: value.cpu().contiguous() for name, value in scorer.state_dict().items()}
