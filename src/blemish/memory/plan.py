"""What remembering will take, told before it starts."""

import time
from typing import NamedTuple

import torch

from blemish.memory.coreset import squared_distances

PROBE = (1024, 512)
RUNTIME_MB = 690
"""Libraries, both inference sessions and the buffers of products."""
HELD_TWICE = 1.8
"""The vectors before and after their rotation: what is freed on the way is not given back at once."""
OUTSIDE_SECONDS = 1.5
"""Export, parity and opening the graph."""


class Plan(NamedTuple):
    vectors: int
    width: int
    rows: int
    megabytes: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.vectors} patch vectors of {self.width} values, of which {self.rows} are remembered: "
            f"about {self.megabytes:.0f} MB of memory and {self.seconds:.0f} s."
        )


def plan(images: int, cells: int, width: int, rows: int, *, embed_seconds: float, budget_mb: float) -> Plan:
    """`embed_seconds` is what one image was seen to take; products are timed here on one block."""
    vectors = images * cells
    rows = min(rows, vectors)
    pairs = 2.0 * vectors * rows  # once while picking, once for what good images score
    passes = pairs / (PROBE[0] * PROBE[1]) * product_seconds(width) / torch.get_num_threads()
    held = min(vectors * width * 4e-6, budget_mb)
    products = torch.get_num_threads() * cells * rows * 4e-6
    return Plan(
        vectors,
        width,
        rows,
        RUNTIME_MB + HELD_TWICE * held + products,
        OUTSIDE_SECONDS + images * embed_seconds + passes,
    )


def product_seconds(width: int) -> float:
    """The best of a few, on one thread, of a product of the size that picking makes."""
    block, rows = torch.rand(PROBE[0], width), torch.rand(PROBE[1], width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        squared_distances(block, rows).amin(1)
        taken.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return sorted(taken)[2]
