"""What the methods that remember patch vectors have in common; they differ in features and in density."""

import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from blemish.data import Samples
from blemish.memory.bank import Bank, BankScorer, rows_within
from blemish.memory.coreset import k_centre
from blemish.memory.density import Places
from blemish.memory.patches import PatchVectors, Rotation
from blemish.memory.plan import Plan, plan
from blemish.memory.vectors import Vectors
from blemish.methods._contract import Run
from blemish.nets.runtime import Compiled


class BankMethod:
    outputs: ClassVar[tuple[str, ...]] = ("pred_score", "anomaly_map", "nearest_image")

    def __init__(self, config: Any) -> None:
        self.config = config
        self.chosen: dict[str, Any] = {}

    def features(self, train: Samples, run: Run) -> PatchVectors:
        """The network that turns pictures into patch vectors, adapted to the product or not."""
        del train
        return PatchVectors(run.load_backbone(), self.config.taps)

    def bank(self, vectors: Vectors, picked: Tensor, grid: tuple[int, int]) -> Bank:
        """The picked rows, and what is taken off the distance to them: nothing."""
        rows = vectors.rows(picked)
        nothing = torch.zeros(len(rows))
        anywhere = Places(torch.zeros(grid), torch.ones(grid))
        return Bank(rows, vectors.sources()[picked], nothing, nothing.clone(), anywhere)

    def scorer(self, rotation: Rotation, bank: Bank, run: Run) -> BankScorer:
        return BankScorer(self.patches, rotation, bank, size=run.size)

    def fit(self, train: Samples, run: Run) -> BankScorer:
        self.patches = self.features(train, run)
        return self.remember(self.vectors(train, run, tell=True), run)

    def leave_one_out(self, train: Samples, run: Run) -> Iterator[BankScorer]:
        vectors = self.vectors(train, run)
        for image in range(len(train)):
            yield self.remember(vectors.without(image), run)

    def vectors(self, train: Samples, run: Run, *, tell: bool = False) -> Vectors:
        compiled = run.compiled(self.patches)
        if tell:
            expected = self.plan(compiled, train, run)
            run.say(f"Learning from {len(train)} images: {expected}")
            self.chosen |= {
                "expected_mb": round(expected.megabytes),
                "expected_seconds": round(expected.seconds, 1),
            }
        return Vectors.of(run.outputs(compiled, train, "patch vectors"), int(run.memory_mb * 1e6))

    def plan(self, compiled: Compiled, train: Samples, run: Run) -> Plan:
        one = run.pixels(train[:1])
        compiled(one)  # the first call sets up what later ones reuse
        begin = time.perf_counter()
        cells, width = compiled(one).shape[1:]
        taken = time.perf_counter() - begin
        most = rows_within(run.bank_mb, width, self.config.rows)
        return plan(len(train), cells, width, most, embed_seconds=taken, budget_mb=run.memory_mb)

    def remember(self, vectors: Vectors, run: Run) -> BankScorer:
        rotation = Rotation.of(*vectors.moments(), power=self.config.whiten, dims=self.config.dims)
        vectors = vectors.turned(rotation)
        most = rows_within(run.bank_mb, rotation.matrix.shape[1], self.config.rows)
        start = int(np.random.default_rng([run.seed]).integers(len(vectors)))
        picked = k_centre(vectors, most, start=start)
        bank = self.bank(vectors, picked, self.patches.grid(run.size))
        self.chosen |= {
            "weights_licence": self.patches.backbone.licence,
            "bank_rows": len(bank.rows),
            "width": bank.rows.shape[1],
            "good_vectors": len(vectors),
        }
        return self.scorer(rotation, bank, run)

    def weights(self, scorer: BankScorer) -> dict[str, Tensor]:
        state = scorer.state_dict()
        return {name: value.cpu() for name, value in state.items() if not name.startswith("patches.backbone")}

    def facts(self) -> dict[str, Any]:
        return dict(self.chosen)
