"""All patch vectors of the good images: in memory while they fit a budget, then in a temporary file."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import accumulate, pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blemish.errors import DataError


class Spill:
    """A temporary file of rows, gone with its last user."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="blemish-vectors-")  # noqa: SIM115 (closed below)
        self.lock = Lock()

    def __del__(self) -> None:
        if hasattr(self, "file"):  # it is not when an interrupt came first
            self.file.close()

    def write(self, block: Tensor) -> "Place":
        offset = self.file.seek(0, 2)
        self.file.write(block.contiguous().numpy().data)
        return Place(offset, len(block), block.shape[1])

    def read(self, place: "Place") -> Tensor:
        with self.lock:
            self.file.seek(place.offset)
            data = bytearray(self.file.read(4 * place.rows * place.width))
        flat = np.frombuffer(data, np.float32)
        return torch.from_numpy(flat.reshape(place.rows, place.width))


class Place(NamedTuple):
    offset: int
    rows: int
    width: int


class Vectors:
    """Blocks of rows, one block an image, in the order in which they were added."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.blocks: list[Tensor | Place] = []
        self.held = 0
        self.spill = Spill()
        self.count = 0

    @classmethod
    def of(cls, blocks: Iterable[Tensor], budget: int) -> "Vectors":
        vectors = cls(budget)
        for block in blocks:
            vectors.add(block)
        return vectors

    def add(self, block: Tensor) -> None:
        """`block` (rows, width) of one image."""
        if not torch.isfinite(block).all():
            raise DataError(
                "The backbone gave values that are not numbers: use other weights or another backbone."
            )
        self.count += len(block)
        self.blocks.append(self._hold(block))

    def _hold(self, block: Tensor) -> Tensor | Place:
        size = block.numel() * block.element_size()
        if self.held + size > self.budget:
            return self.spill.write(block)
        self.held += size
        return block.clone()

    def __len__(self) -> int:
        return self.count

    def block(self, index: int) -> Tensor:
        held = self.blocks[index]
        return held if isinstance(held, Tensor) else self.spill.read(held)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for index in range(len(self.blocks)):
            block = self.block(index)
            yield slice(start, start + len(block)), block
            start += len(block)

    def each(self, work: Callable[[int, slice, Tensor], None]) -> None:
        """Do the work for every block, on one thread a core.

        Each thread computes alone. Splitting every small product between the cores instead makes them wait
        for one another thousands of times, which on a shared machine costs more than the arithmetic.
        """
        starts = accumulate(
            (held.shape[0] if isinstance(held, Tensor) else held.rows for held in self.blocks), initial=0
        )
        places = [slice(start, stop) for start, stop in pairwise(starts)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                list(
                    pool.map(lambda index: work(index, places[index], self.block(index)), range(len(places)))
                )
        finally:
            torch.set_num_threads(threads)

    def rows(self, picked: Tensor) -> Tensor:
        """The given rows, in the given order."""
        out: Tensor | None = None
        for place, block in self:
            chosen = ((picked >= place.start) & (picked < place.stop)).nonzero()[:, 0]
            if out is None:
                out = block.new_empty(len(picked), block.shape[1])
            out[chosen] = block[picked[chosen] - place.start]
        assert out is not None
        return out

    def sources(self) -> Tensor:
        """For each row the number of its image."""
        return torch.cat([torch.full((len(block),), i) for i, (_, block) in enumerate(self)])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance, summed in double precision."""
        total: Tensor | float = 0.0
        outer: Tensor | float = 0.0
        for _, block in self:
            exact = block.double()
            total, outer = total + exact.sum(0), outer + exact.T @ exact
        mean = torch.as_tensor(total) / self.count
        return mean, torch.as_tensor(outer) / self.count - torch.outer(mean, mean)

    def turned(self, change: Callable[[Tensor], Tensor]) -> "Vectors":
        """Every row changed; this collection is used up on the way, so that no two of it are ever held."""
        changed = Vectors(self.budget)
        self.blocks.reverse()
        while self.blocks:
            changed.add(change(self.block(-1)))
            self.blocks.pop()
        return changed

    def without(self, image: int) -> "Vectors":
        """All but one image's rows, shared rather than copied."""
        rest = copy(self)
        rest.blocks = self.blocks[:image] + self.blocks[image + 1 :]
        rest.count = self.count - len(self.block(image))
        return rest
