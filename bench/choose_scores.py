"""How the score of `uniad` was chosen: one network, four ways to tell how far off a patch is.

    python bench/choose_scores.py folders ../shared/data/screw … [--seeds 0]

Painted defects on held-out good images, products of many and of few images as in choose_products.py; the set
is called by the first argument. What each way makes of pictures and of their maps, the mean of all products,
goes into bench/results/choices-scores.json. No test image is ever opened.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from blemish.evaluate.metrics import image_metrics, pixel_metrics
from blemish.nets.uniad import Error
from choose_defaults import PAINTERS, SIZE
from choose_products import Asked, painted_on, together
from records import RESULTS, Store, bare

RATES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro30")


def heats(scorer: Any, pictures: np.ndarray[Any, Any]) -> Iterator[tuple[float, np.ndarray[Any, Any]]]:
    for picture in pictures:
        pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        with torch.no_grad():
            score, heat, *_ = scorer(pixels)
        yield float(score), heat[0].numpy()


def rates(scorer: Any, asked: Asked, sort: str) -> list[list[float]]:
    """Of each product."""
    found = []
    for held, bad in asked.values():
        good, wrong = list(heats(scorer, held)), list(heats(scorer, bad[sort].pictures))
        labels = [False] * len(good) + [True] * len(wrong)
        pairs = [(heat, np.zeros(SIZE, np.bool_)) for _, heat in good]
        pairs += [(heat, mask) for (_, heat), mask in zip(wrong, bad[sort].masks, strict=True)]
        image = image_metrics([score for score, _ in good + wrong], labels).auroc
        of = pixel_metrics(pairs.__iter__)
        row = (image, of.auroc, of.ap, of.aupro30)
        found.append([value for value in row if value is not None])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    store = Store(RESULTS / "choices-scores.json")
    for seed in map(int, given.seeds.split(",")):
        keys = [{"dataset": given.name, "variant": kind, "seed": seed} for kind in get_args(Error)]
        if all(map(store.has, keys)):
            continue
        learnt, asked = painted_on(given.folders, seed, list(PAINTERS))
        found = bare(together(learnt), "uniad", "fast", {}, size=SIZE, seed=seed)
        scorer: Any = found.scorer.eval()
        for key in keys:
            scorer.kind = key["variant"]
            by = {sort: np.mean(rates(scorer, asked, sort), axis=0) for sort in PAINTERS}
            means = dict(zip(RATES, np.mean([*by.values()], axis=0).tolist(), strict=True))
            each = {sort: dict(zip(RATES, row.tolist(), strict=True)) for sort, row in by.items()}
            store.add(key, {**means, "by": each, "fit_seconds": found.seconds})


if __name__ == "__main__":
    main()
