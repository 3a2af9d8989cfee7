"""How EAR's U-Nets learn: to rebuild whole good pictures from what is not hidden of them."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.data import Sample, Samples
from blemish.methods import _training
from blemish.methods._conditions import relit
from blemish.methods._contract import Run
from blemish.methods._excision import Filling, Likeness
from blemish.nets.reconstruction import CELLS, Loss, disjoint_masks, random_squares

if TYPE_CHECKING:
    from blemish.methods.ear import Config

LEVELS = (1, 2, 4, 8, 8)
"""Widths of the U-Net's levels, in those of the first."""
SIZES = (4, 8, 16, 32)
"""Of a mosaic's cells, to choose among."""
BATCH = 8
MORE = 0.05
"""Share of a picture that is hidden beside what attention hides."""
WATCHED = 16
"""Pictures that the loss is told of, where they were hidden and where not."""


class Batch(NamedTuple):
    pictures: Tensor
    hidden: Tensor
    """(N, H, W), or for RIAD (N, passes, 1, H, W)."""
    cells: int
    """Side of the mosaic."""
    member: int = 0


class Inpainting(_training.Task):
    """Rebuild whole good pictures from what is not hidden of them."""

    label = "learning to fill in"
    network: Filling
    dense = True

    def __init__(
        self,
        network: Filling,
        train: Samples,
        config: "Config",
        run: Run,
        *,
        masks: dict[str, NDArray[np.uint8]],
        likeness: Likeness | None,
    ) -> None:
        self.network, self.config, self.run = network, config, run
        self.masks, self.likeness = masks, likeness
        self.updates, self.patience = config.updates * config.members, config.patience
        self.train, self.aside = _training.kept_aside(train, run.seed, wanted=config.check_every > 0)
        self.check_every = config.check_every * config.members if self.aside else 0
        self.objective = Loss(config.loss, half=config.half)
        for unet in network.unets:
            unet.switch(first_off(config.off_in_training))

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), lr=self.config.learning_rate)

    def rate(self, update: int) -> float:
        return _training.cosine(self.config.learning_rate, update, self.updates)

    def phase(self, update: int) -> None:
        self.network.train()

    def draw(self, update: int, forward: int) -> Batch:
        start = (update - 1) * self.config.batch
        rng = np.random.default_rng([self.run.seed, update])
        cells = self.config.cell or int(rng.choice(SIZES))
        some = [self.example(number) for number in range(start, start + self.config.batch)]
        return self.together(some, cells)._replace(member=(update - 1) % self.config.members)

    def example(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        seed = self.run.seed
        turn, rank = divmod(number, len(self.train))
        sample = self.train[int(np.random.default_rng([seed, turn]).permutation(len(self.train))[rank])]
        rng = np.random.default_rng([seed, turn, rank])
        picture, mask = self.run.pixels([sample])[0], self.hidden(sample.name, rng)
        if self.config.hide == "attention" and rng.random() < self.config.mask_aug:
            mask = mask | random_squares(self.run.size, MORE, rng)
        if self.config.flips:
            ways = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
            picture, mask = np.flip(picture, ways), np.flip(mask, ways)
        return relit(picture, self.config.light, rng), mask

    def hidden(self, name: str, rng: np.random.Generator) -> NDArray[np.bool_]:
        size = self.run.size
        if self.config.hide == "nothing":
            return np.zeros(size, bool)
        if self.config.hide == "riad":
            return disjoint_masks(size, int(rng.choice(CELLS)), seed=int(rng.integers(2**31)))
        mask = np.unpackbits(self.masks[name], count=math.prod(size)).reshape(size).view(np.bool_)
        if self.config.hide == "random":
            return random_squares(size, float(mask.mean()), rng)
        return mask

    def together(self, some: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], cells: int) -> Batch:
        pictures = torch.from_numpy(np.stack([picture for picture, _ in some]))
        hidden = torch.from_numpy(np.stack([mask for _, mask in some])).float()
        return Batch(pictures, hidden[:, :, None] if hidden.ndim > 3 else hidden, cells)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        rebuilt = network(*batch)
        loss = self.objective(batch.pictures, rebuilt)
        if self.likeness is None:
            return loss
        alike = self.likeness.to(rebuilt.device)(batch.pictures, rebuilt)
        return loss + self.config.likeness * alike

    def kept(self, samples: Iterable[Sample], cells: int = 0) -> Iterator[Batch]:
        """Pictures as they are, with what is hidden of them whenever this is asked."""
        cells = cells or self.config.cell or SIZES[-2]
        items = list(samples)
        for start in range(0, len(items), BATCH):
            each = []
            for place, sample in enumerate(items[start : start + BATCH], start):
                mask = self.hidden(sample.name, np.random.default_rng([place]))
                each.append((self.run.pixels([sample])[0], mask))
            yield self.together(each, cells)

    @torch.no_grad()
    def inside_and_outside(self) -> dict[str, float]:
        """The loss where good pictures were hidden, and elsewhere: what is copied drowns it in the whole."""
        if self.config.hide not in ("attention", "random"):
            return {}
        for unet in self.network.unets:
            unet.switch(first_off(self.config.off_in_training))
        sums, count = np.zeros(2), 0
        for batch in self.kept((self.aside or self.train)[:WATCHED]):
            rebuilt = self.network(*batch)
            sides = self.objective.inside_and_outside(batch.pictures, rebuilt, batch.hidden[:, None])
            sums, count = sums + len(rebuilt) * np.array(sides), count + len(rebuilt)
        return dict(zip(("loss_hidden", "loss_visible"), (sums / count).tolist(), strict=True))

    def check(self) -> float:
        """The loss on good pictures kept aside."""
        device = next(self.network.parameters()).device
        total = 0.0
        for batch in self.kept(self.aside):
            moved = batch._replace(pictures=batch.pictures.to(device), hidden=batch.hidden.to(device))
            for member in range(self.config.members):
                total += len(batch.pictures) * float(self.loss(self.network, moved._replace(member=member)))
        return total / (len(self.aside) * self.config.members)


def first_off(count: int) -> tuple[bool, ...]:
    return tuple(level >= count for level in range(len(LEVELS) - 1))
