"""LTAD's phases: names and the generator that they condition; then, on real and made features, judging."""

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.methods import _training
from blemish.methods._features import Features
from blemish.methods.uniad import Turns
from blemish.nets.judge import TOLD, Called, Calling, Judging, Shown, Told
from blemish.nets.semantic import pseudo_anomalies
from blemish.nets.space import Gaze, Seen, Space
from blemish.nets.uniad import jitter
from blemish.nets.vae import BETA, Synthesis, lacking, warmed

if TYPE_CHECKING:
    from blemish.methods.ltad import Config

NAMES = 5.0
"""Learning rate of names, by that of what learns beside them."""
OVERDONE = 0.5
"""Share of the updates after which the reconstruction is good enough for its misses to be overdone."""
AT_ONCE = 32
"""Pictures that are looked at together."""


class Sight:
    """What the frozen tower sees in samples, in the coordinates that everything is learned in."""

    def __init__(self, gaze: Gaze, space: Space, found: Features) -> None:
        self.gaze, self.space, self.found = gaze, space, found

    def __deepcopy__(self, memo: Any) -> "Sight":
        return self  # nothing of it learns

    @torch.no_grad()
    def of(self, samples: Iterable[Sample]) -> Seen:
        return self.space(self.gaze.seen(self.found.batch(samples)))


class Naming(_training.Task):
    """Phase one. Every class is drawn equally often, or names of rare ones would fall to those of others."""

    label = "learning names"
    network: Calling

    def __init__(self, network: Calling, sight: Sight, train: Samples, config: "Config", seed: int) -> None:
        self.network, self.sight, self.config, self.seed = network, sight, config, seed
        self.products = [train.klass(name) for name in train.classes]
        self.updates = config.name_updates_for(len(train)) if network.learns else 0

    def optimiser(self) -> torch.optim.Optimizer:
        self.phase(1)
        weights = dict(self.network.named_parameters())
        names = [each for name, each in weights.items() if name.startswith("names.names")]
        others = [each for name, each in weights.items() if not name.startswith("names.names")]
        return grouped(self.config, (names, NAMES), (others, 1.0))

    def rate(self, update: int) -> float:
        return _training.cosine(self.config.name_rate, update, self.updates)

    def phase(self, update: int) -> None:
        self.network.train()
        self.network.names.learn("names")

    def draw(self, update: int, forward: int) -> Called:
        rng, count = np.random.default_rng([self.seed, update]), self.config.name_batch
        classes = rng.integers(len(self.products), size=count).tolist()
        some = [self.products[klass][int(rng.integers(len(self.products[klass])))] for klass in classes]
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(count, self.config.vae_width, generator=generator)
        seen = self.sight.of(some)
        maps = self.sight.space.stack(seen)
        return Called(maps, seen.image, torch.tensor(classes), noise, warmed(BETA, update, self.updates))

    def loss(self, network: nn.Module, batch: Called) -> Tensor:
        return network(batch)


def grouped(config: "Config", *groups: tuple[list[nn.Parameter], float]) -> torch.optim.Optimizer:
    """Of each group the weights, of which some learn, and their learning rate by that of the task."""
    learning = [
        {"params": [each for each in weights if each.requires_grad], "times": times}
        for weights, times in groups
    ]
    return torch.optim.AdamW([each for each in learning if each["params"]], weight_decay=config.weight_decay)


class Judgement(Turns):
    """Phase two, on pictures as often as there are and, beside them, on what rare classes lack."""

    label = "learning what is normal"
    config: "Config"
    network: Judging

    def __init__(self, network: Judging, sight: Sight, train: Samples, config: "Config", seed: int) -> None:
        super().__init__(train, config, seed)
        self.network, self.sight, self.names = network, sight, train.classes
        self.check_every *= network.rm is not None
        self.updates *= network.rm is not None or network.sad is not None
        self.lacking = lacking([len(part) for part in self.products])
        self.synthesis: Synthesis | None = None

    def begin(self) -> None:
        """Where names and their generator are learned, what rare classes lack can be made."""
        if self.network.vae is not None:
            with torch.no_grad():
                table = self.network.names().bare
            counts = [len(part) for part in self.products]
            self.synthesis = Synthesis.of(self.network.vae, table, self.everything(), counts, seed=self.seed)

    def everything(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, part in enumerate(self.products):
            for start in range(0, len(part), AT_ONCE):
                some = self.sight.of(part[start : start + AT_ONCE])
                yield self.sight.space.stack(some), torch.full((len(some.maps),), number)

    def optimiser(self) -> torch.optim.Optimizer:
        self.phase(1)
        rm, sad, names = self.network.rm, self.network.sad, self.network.names
        judges = [] if sad is None else [*sad.parameters(), *names.parameters()]
        faster = self.config.sad_rate / max(self.config.learning_rate, 1e-12)
        return grouped(self.config, ([] if rm is None else [*rm.parameters()], 1.0), (judges, faster))

    def phase(self, update: int) -> None:
        self.network.train()
        self.network.names.learn("state")

    def draw(self, update: int, forward: int) -> Shown:
        rng = np.random.default_rng([self.seed, update])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        rare = self.rare(generator)
        count = self.config.batch - len(rare)
        some = [self.drawn(number) for number in range((update - 1) * count, update * count)]
        if self.config.oversample:
            some += self.real(rare, rng)
        seen, space = self.sight.of(some), self.sight.space
        classes = torch.tensor([self.names.index(sample.klass) for sample in some])
        if self.synthesis is not None and rare:
            made, like = self.synthesis.draw(torch.tensor(rare), generator)
            if refused := (~like).nonzero()[:, 0].tolist():
                made[refused] = space.stack(self.sight.of(self.real([rare[each] for each in refused], rng)))
            seen = space.apart(torch.cat([space.stack(seen), made]))
            classes = torch.cat([classes, torch.tensor(rare)])
        seed, told = int(rng.integers(2**63)), None
        if self.network.sad is not None:
            clean = seen.some(TOLD)
            overdone = self.network.rm is not None and update > OVERDONE * self.updates
            wrong = pseudo_anomalies(clean, classes[TOLD], generator, rebuilt=overdone)
            told = Told(classes[TOLD], clean, wrong, overdone)
        return Shown(self.parts(seen), told, seed)

    def rare(self, generator: torch.Generator) -> list[int]:
        """Classes of what is made, or shown again: each by what it lacks to the largest."""
        count = min(round(self.config.rho * self.config.batch), self.config.batch - 1)  # one is real
        if self.lacking is None or not count or (self.synthesis is None and not self.config.oversample):
            return []
        return torch.multinomial(self.lacking, count, replacement=True, generator=generator).tolist()

    def real(self, classes: Iterable[int], rng: np.random.Generator) -> list[Sample]:
        """One picture of each."""
        return [part[int(rng.integers(len(part)))] for part in map(self.products.__getitem__, classes)]

    def made(self, count: int) -> Iterator[Seen]:
        """Made features of each class: those of so many that are like real ones."""
        assert self.synthesis is not None
        generator = torch.Generator().manual_seed(self.seed)
        for number in range(len(self.products)):
            maps, like = self.synthesis.draw(torch.full((count,), number), generator)
            yield self.sight.space.apart(maps[like])

    def loss(self, network: nn.Module, batch: Shown) -> Tensor:
        device = batch.parts.device
        noise = torch.Generator(device).manual_seed(batch.seed)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(batch.seed)  # what is dropped
            scale = self.config.jitter * sqrt(batch.parts.shape[1])
            return network(jitter(batch.parts, scale, generator=noise), batch)

    def off(self, good: Samples) -> float:
        parts = self.parts(self.sight.of(good)).to(next(self.network.parameters()).device)
        assert self.network.rm is not None
        return float(F.mse_loss(self.network.rm(parts), parts))

    def parts(self, seen: Seen) -> Tensor:
        """What is rebuilt of it."""
        return seen.maps[:, : self.config.kept or None]
