"""UniAD: one network learns to rebuild the maps of good pictures of all products; what it can't is a defect.

Paper: You, Cui, Shen, Yang, Lu, Zheng and Le, "A Unified Model for Multi-class Anomaly Detection",
arXiv 2206.03687.
Faithful: the transformer with neighbour masks, a query of its own in every layer and jittered features; maps
of several stages on one grid; the highest mean of a window as image score; in the preset `paper` the distance
of a patch to what was rebuilt of it, sizes and schedule, too. The last weights count, or those that did best
on good pictures kept aside: never those that did best on test pictures, as in the published code.
Ours: the embedded backbone, and principal directions of its maps that count alike, in which every product
does: what varies most in good pictures would hide small defects; the direction of a patch beside its
distance; finer stages averaged over cells; a smaller network that looks at near patches first, and a shorter
schedule, for two CPU cores; and which product a picture shows, by the means of its map.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.errors import UsageError
from blemish.methods import _training
from blemish.methods._contract import Run
from blemish.methods._features import Features, features, picture_key
from blemish.methods._once import TrainsOnce
from blemish.methods._registry import register
from blemish.nets.maps import Likeness, Stacked, grid_of
from blemish.nets.uniad import Error, Principal, Reconstruction, image_score, jitter, reconstruction_error

SPARES = 20
"""Images from which on a product can spare some to be kept aside."""
DROPS = 0.8
"""After this share of the updates the published learning rate falls to a tenth."""


@dataclass(frozen=True, kw_only=True)
class Config:
    taps: tuple[str, ...] = ()
    """Stages of the backbone whose maps are rebuilt; when empty the last of each stride up to 16."""
    kept: int = 128
    """Principal directions of the maps that are kept, 0: all, in `ltad` of 512 at most."""
    standardised: bool = True
    """Whether all channels vary alike, before directions are chosen."""
    whiten: float = 1.0
    """0: directions count as much as good patches vary in them; 1: all alike."""
    updates: int = 500
    """Updates, at most; 0: what `epochs` make."""
    epochs: int = 1000
    """Passes over all images, at most."""
    batch: int = 16
    """Images in an update."""
    sampler: Literal["images", "balanced"] = "images"
    """Whether every image is drawn equally often, or every product."""
    learning_rate: float = 1e-3
    """Of the first update."""
    schedule: Literal["cosine", "drop"] = "cosine"
    """How the learning rate falls: along a cosine, or to a tenth after four fifths of the updates."""
    weight_decay: float = 1e-4
    """Of the weights."""
    clip: float = 1.0
    """Length that a gradient is shortened to, 0: none is."""
    width: int = 128
    """Of the transformer's tokens."""
    heads: int = 4
    """Of each attention."""
    depth: int = 3
    """Layers of the encoder, and as many of the decoder."""
    hidden: int = 256
    """Width within the layers."""
    dropout: float = 0.1
    """Share of what is dropped while learning."""
    neighbours: int = 7
    """Cells across the window around a patch in which it sees nothing, at most half of the map."""
    near: bool = True
    """Whether patches look at near ones first, beyond that window."""
    jitter: float = 1.21
    """Length of the noise that learning has to undo, in lengths of the patch."""
    rec_score: Error = "both"
    """How far off a patch is: `l2` its distance, `sq` the square of it, `cos` half of one minus the cosine,
    `both` the distance times that."""
    window: float = 16.0
    """Side of the square whose highest mean is the image score, in pixels of a 224-pixel picture."""
    check_every: int = 50
    """Updates between two looks at good images kept aside; 0: none."""
    patience: int = 4
    """Looks without a better one after which training ends."""

    def __post_init__(self) -> None:
        leasts = {"kept": 0, "updates": 0, "epochs": 1, "batch": 1, "heads": 1, "depth": 1, "hidden": 1}
        leasts |= {"check_every": 0, "patience": 1, "width": 2}
        floats = {"whiten": 0, "window": 0, "weight_decay": 0, "learning_rate": 0, "clip": 0, "jitter": 0}
        for name, least in {**leasts, **floats}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}: give a share below 1.")
        if self.neighbours < 1 or self.neighbours % 2 == 0:
            raise UsageError(f"neighbours is {self.neighbours}: give an odd number, so that it has a middle.")
        if self.width % self.heads or self.width % 2:
            raise UsageError(f"width is {self.width}: give an even multiple of the {self.heads} heads.")

    def updates_for(self, images: int) -> int:
        most = ceil(self.epochs * images / self.batch)
        return min(self.updates or most, most)

    def rate(self, update: int, updates: int) -> float:
        if self.schedule == "drop":
            return self.learning_rate * (0.1 if update > DROPS * updates else 1.0)
        return _training.cosine(self.learning_rate, update, updates)

    def transformer(self, channels: int, grid: tuple[int, int]) -> Reconstruction:
        return Reconstruction(
            channels,
            grid,
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            hidden=self.hidden,
            dropout=self.dropout,
            neighbours=self.neighbours,
            near=self.near,
        )


PAPER: dict[str, Any] = {
    "kept": 0,
    "standardised": False,
    "whiten": 0.0,
    "updates": 0,
    "batch": 8,
    "learning_rate": 1e-4,
    "schedule": "drop",
    "clip": 0.1,
    "width": 256,
    "heads": 8,
    "depth": 4,
    "hidden": 1024,
    "near": False,
    "rec_score": "l2",
    "check_every": 0,
}


class Batch(NamedTuple):
    maps: Tensor
    seed: int
    """Of everything else that is drawn for it."""


class Rebuilder(nn.Module):
    """Maps as they are compared, what is made of them, and where there are several, which product it is."""

    def __init__(self, seen: nn.Module, net: Reconstruction, likeness: Likeness | None) -> None:
        super().__init__()
        self.seen, self.net, self.likeness = seen, net, likeness

    def forward(self, parts: Tensor) -> Tensor:
        return self.net(parts)


class UniadScorer(nn.Module):
    def __init__(self, stacked: Stacked, rebuilder: Rebuilder, config: Config, size: tuple[int, int]) -> None:
        super().__init__()
        self.stacked, self.rebuilder = stacked, rebuilder
        self.kind, self.window, self.size = config.rec_score, config.window, size

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        maps = self.stacked(pictures)
        parts = self.rebuilder.seen(maps)
        error = reconstruction_error(parts, self.rebuilder(parts), self.kind)
        heat = F.interpolate(error[:, None], self.size, mode="bilinear", align_corners=False)[:, 0]
        told, likeness = (image_score(heat, self.window), heat), self.rebuilder.likeness
        return told if likeness is None else (*told, likeness(maps))


class Turns(_training.Task):
    """Every picture in turn, or every product equally often; a few of them only tell when to stop."""

    config: Config
    dense = True

    def __init__(self, train: Samples, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self.train, self.aside = spared(train, seed, wanted=config.check_every > 0)
        self.products = [self.train.klass(name) for name in self.train.classes]
        self.updates, self.patience = config.updates_for(len(self.train)), config.patience
        self.check_every = config.check_every if self.aside else 0
        self.clip = config.clip

    def rate(self, update: int) -> float:
        return self.config.rate(update, self.updates)

    def phase(self, update: int) -> None:
        self.network.train()

    def drawn(self, number: int) -> Sample:
        if self.config.sampler == "balanced":
            rng = np.random.default_rng([self.seed, number])
            part = self.products[int(rng.integers(len(self.products)))]
            return part[int(rng.integers(len(part)))]
        turn, rank = divmod(number, len(self.train))
        return self.train[int(np.random.default_rng([self.seed, turn]).permutation(len(self.train))[rank])]

    def check(self) -> float:
        """How far off good pictures kept aside are, without noise; every product counts alike."""
        return float(np.mean([self.off(self.aside.klass(name)) for name in self.aside.classes]))

    @abstractmethod
    def off(self, good: Samples) -> float: ...


class Rebuilding(Turns):
    """Rebuild clean maps from noisy ones."""

    label = "learning to rebuild"
    network: Rebuilder

    def __init__(
        self, network: Rebuilder, found: Features, train: Samples, config: Config, seed: int
    ) -> None:
        super().__init__(train, config, seed)
        self.network, self.found = network, found

    def optimiser(self) -> torch.optim.Optimizer:
        learning = [each for each in self.network.parameters() if each.requires_grad]
        rate, decay = self.config.learning_rate, self.config.weight_decay
        return torch.optim.AdamW(learning, lr=rate, weight_decay=decay)

    def draw(self, update: int, forward: int) -> Batch:
        start = (update - 1) * self.config.batch
        some = [self.drawn(number) for number in range(start, start + self.config.batch)]
        seed = int(np.random.default_rng([self.seed, update]).integers(2**63))
        return Batch(self.found.batch(some), seed)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        device = batch.maps.device
        noise = torch.Generator(device).manual_seed(batch.seed)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(batch.seed)  # what is dropped
            with torch.no_grad():
                parts = self.network.seen(batch.maps.float())
                noisy = jitter(parts, self.config.jitter * sqrt(parts.shape[1]), generator=noise)
            return F.mse_loss(network(noisy), parts)

    def off(self, good: Samples) -> float:
        device, total = next(self.network.parameters()).device, 0.0
        for start in range(0, len(good), self.config.batch):
            some = good[start : start + self.config.batch]
            parts = self.network.seen(self.found.batch(some).to(device).float())
            total += len(some) * float(F.mse_loss(self.network(parts), parts))
        return total / len(good)


def spared(train: Samples, seed: int, *, wanted: bool) -> tuple[Samples, Samples]:
    """The images to learn from, and some of each product that has many, to tell when to stop."""
    aside: set[str] = set()
    for name in train.classes:
        part = train.klass(name)
        _, some = _training.kept_aside(part, seed, wanted=wanted and len(part) >= SPARES)
        aside |= {sample.name for sample in some}
    return (
        train.with_items(sample for sample in train if sample.name not in aside),
        train.with_items(sample for sample in train if sample.name in aside),
    )


@register
class UniAD(TrainsOnce):
    name: ClassVar[str] = "uniad"
    Config: ClassVar[type] = Config
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {},
        "full": {"updates": 3200, "patience": 16},
        "paper": PAPER,
    }

    def fit(self, train: Samples, run: Run) -> UniadScorer:
        self.look(train, run)
        task = self.task(train, run)
        one = _training.probe(self.task(train, run), run)
        self.chosen["expected_seconds"] = round(one.seconds * task.updates)
        run.say(
            f"Learning from {len(train)} images of {len(train.classes)} "
            f"product{'s' if len(train.classes) > 1 else ''}: {task.updates} updates of {self.config.batch}, "
            f"about {one.seconds * task.updates:.0f} s for these at most."
        )
        pictures = "".join(f"{sample.klass} {picture_key(run.picture(sample))} " for sample in train)
        return self.learned(task, run, pictures.encode(errors="surrogateescape"))

    def look(self, train: Samples, run: Run) -> None:
        backbone = run.load_backbone().requires_grad_(False)
        self.stacked = Stacked(backbone, self.config.taps, grid_of(run.size)).eval()
        self.found = features(self.stacked, train, run)
        self.classes = train.classes
        if len(self.classes) > 1:
            self.outputs = (*type(self).outputs, "class_scores")
        self.chosen |= {"weights_licence": backbone.licence, "channels": self.found.shape[0]}

    def task(self, train: Samples, run: Run) -> Rebuilding:
        config, channels = self.config, self.found.shape[0]
        parts = [train.klass(name) for name in self.classes]  # a half may lack one
        usual = [self.found.moments(part) if part else None for part in parts]
        seen: nn.Module = nn.Identity()
        kept = min(config.kept or channels, channels)
        if config.kept or config.standardised or config.whiten:
            known = [each for each in usual if each is not None]
            seen = Principal.of(known, kept, standardised=config.standardised, whiten=config.whiten)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            net = config.transformer(kept, grid_of(run.size))
        likeness = Likeness.of(usual) if len(self.classes) > 1 else None
        return Rebuilding(Rebuilder(seen, net, likeness), self.found, train, config, run.seed)

    def scorer(self, task: Rebuilding, run: Run) -> UniadScorer:
        return UniadScorer(self.stacked, task.network, self.config, run.size).eval()

    def weights(self, scorer: UniadScorer) -> dict[str, Tensor]:
        return {name: value.cpu().contiguous() for name, value in scorer.rebuilder.state_dict().items()}
