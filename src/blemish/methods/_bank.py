"""What the methods that remember patch vectors have in common; they differ in features and in measure."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from blemish.data import Samples
from blemish.memory.bank import Bank, BankScorer, rows_within
from blemish.memory.coreset import k_centre
from blemish.memory.density import Places
from blemish.memory.patches import PatchVectors, Rotation
from blemish.memory.plan import Plan, plan
from blemish.memory.vectors import Vectors
from blemish.methods._contract import Run

BANK_MB = 8.0


class BankMethod:
    outputs: tuple[str, ...] = ("pred_score", "anomaly_map", "nearest_image")
    paints = False
    told_classes = 0
    without = None
    """A bank of several products is chosen from all of them anew."""
    notes: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Any) -> None:
        self.config = config
        self.chosen: dict[str, Any] = {}

    @property
    def trains(self) -> bool:
        return False

    def scorer(self, rotation: Rotation, bank: Bank, run: Run) -> BankScorer:
        return BankScorer(self.patches, rotation, bank, size=run.size)

    def fit(self, train: Samples, run: Run) -> BankScorer:
        self.patches = PatchVectors(run.load_backbone(), self.config.taps)
        self.classes = train.classes  # of all: the rest may lack one whose only image is left out
        if len(self.classes) > 1:
            self.outputs = (*type(self).outputs, "class_scores")
        expected = self.plan(train, run)
        run.say(f"Learning from {len(train)} images: {expected}")
        self.chosen |= {
            "expected_mb": round(expected.megabytes),
            "expected_seconds": round(expected.seconds, 1),
            "weights_licence": self.patches.backbone.licence,
        }
        self.adapt(train, run)
        return self.remember(self.vectors(train, run), train, run)

    def leave_one_out(self, train: Samples, run: Run, alone: Samples) -> Iterator[BankScorer]:
        vectors, names = self.vectors(train, run), [sample.name for sample in train]
        for left in alone:
            image = names.index(left.name)
            rest = train.with_items(sample for number, sample in enumerate(train) if number != image)
            yield self.remember(vectors.without(image), rest, run)

    def plan(self, train: Samples, run: Run) -> Plan:
        compiled, one = run.compiled(self.patches), run.pixels(train[:1])
        compiled(one)  # the first call sets up what later ones reuse
        begin = time.perf_counter()
        cells, width = compiled(one).shape[1:]
        taken = time.perf_counter() - begin
        most = self.most_rows(width, run)
        return plan(len(train), cells, width, most, embed_seconds=taken, budget_mb=run.memory_mb)

    def adapt(self, train: Samples, run: Run) -> None:
        """Let the network that turns pictures into patch vectors learn the product: not here."""

    def vectors(self, train: Samples, run: Run) -> Vectors:
        self.compiled = run.compiled(self.patches)
        return Vectors.of(run.outputs(self.compiled, train, "patch vectors"), int(run.memory_mb * 1e6))

    def remember(self, vectors: Vectors, train: Samples, run: Run) -> BankScorer:
        rotation = Rotation.of(*vectors.moments(), power=self.config.whiten, dims=self.config.dims)
        vectors = vectors.turned(rotation)
        most = self.most_rows(rotation.matrix.shape[1], run)
        start = int(np.random.default_rng([run.seed]).integers(len(vectors)))
        everything = not self.config.rows and most >= len(vectors)
        picked = torch.arange(len(vectors)) if everything else k_centre(vectors, most, start=start)
        bank = self.bank(vectors, picked, rotation, train, run)
        if len(self.classes) > 1:
            of_image = torch.tensor([self.classes.index(sample.klass) for sample in train])
            shown = one_hot(of_image[bank.sources], len(self.classes))
            bank = replace(bank, classes=shown.float())
        self.chosen |= {
            "bank_rows": len(bank.rows),
            "width": bank.rows.shape[1],
            "good_vectors": len(vectors),
        }
        return self.scorer(rotation, bank, run)

    def most_rows(self, width: int, run: Run) -> int:
        if not self.config.rows and run.bank_mb is None:
            return sys.maxsize
        megabytes = BANK_MB if run.bank_mb is None else run.bank_mb
        return rows_within(megabytes, width, self.config.rows or sys.maxsize)

    def bank(self, vectors: Vectors, picked: Tensor, rotation: Rotation, train: Samples, run: Run) -> Bank:
        """The picked rows, and what is taken off the distance to them: nothing."""
        del rotation, train
        rows, grid = vectors.rows(picked), self.patches.grid(run.size)
        nothing = torch.zeros(len(rows))
        anywhere = Places(torch.zeros(grid), torch.ones(grid))
        return Bank(rows, vectors.sources()[picked], nothing, nothing.clone(), anywhere)

    def weights(self, scorer: BankScorer) -> dict[str, Tensor]:
        state = scorer.state_dict()
        return {name: value.cpu() for name, value in state.items() if not name.startswith("patches.backbone")}

    def facts(self) -> dict[str, Any]:
        return dict(self.chosen)
