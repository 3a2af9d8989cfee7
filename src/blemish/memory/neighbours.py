"""Exact neighbours by blocked matrix products."""

from collections.abc import Sequence
from threading import local

import torch
from torch import Tensor

from blemish.memory.coreset import squared_distances, squared_norms
from blemish.memory.vectors import Vectors

BLOCK = 1024


def neighbours(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances and row numbers of the `count` nearest rows, nearest first.

    The winners' distances are taken again from the difference itself: the product form loses the digits of
    near-duplicates.
    """
    distances, numbers = [], []
    for block in torch.split(queries, BLOCK):
        found = squared_distances(block, rows).topk(count, largest=False).indices
        exact = (block[:, None] - rows[found]).square().sum(-1)
        ordered, order = exact.sort(1)
        distances.append(ordered)
        numbers.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(numbers)


def nearest_elsewhere(
    vectors: Vectors, rows: Tensor, sources: Tensor, images: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """For every vector its nearest row that came from another image: distance and row number.

    Rows of the vector's own image are left out, so the distance is what a new image would see. Block by block
    that image has the numbers `images`: 0, 1, 2, … unless told.
    """
    distances = torch.empty(len(vectors))
    numbers = torch.empty(len(vectors), dtype=torch.long)
    norms = squared_norms(rows)
    buffers = local()  # fresh large buffers cost more in page faults than the arithmetic in them

    def answer(number: int, place: slice, block: Tensor) -> None:
        image = number if images is None else images[number]
        product = getattr(buffers, "product", None)
        if product is None or len(product) != len(block):
            product = buffers.product = block.new_empty(len(block), len(rows))
        torch.addmm(norms[None], block, rows.T, alpha=-2, out=product)
        product[:, sources == image] = torch.inf
        torch.min(product, 1, out=(distances[place], numbers[place]))
        distances[place] += squared_norms(block)

    vectors.each(answer)
    return distances.clamp_(min=0).sqrt_(), numbers
