"""How much FractalAD's distances should count beside its head, and which score: painted defects alone tell.

    python bench/strangeness.py ../shared/data/screw …

As in choose_defaults.py good training images are learnt from and others painted on, with the faint defects
of REB's kinds and with kinds that no maker of ours paints. One fit tells of all weights, for only the sum
differs. Results go into bench/results/strangeness.json.
"""

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blemish import data, defects
from blemish.evaluate.metrics import image_metrics, pixel_metrics
from blemish.images import PixelFormat
from blemish.methods import Run, create
from blemish.methods.fractalad import FractalScorer
from blemish.nets.sfnet import image_score
from choose_defaults import PAINTED, PAINTERS, SIZE, Pictures, good_pictures
from records import RESULTS, Store

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
SCORES = ("mean", "max", "top1", "q995")
SORTS = ("faint", "unseen")


def learnt(train: Pictures, seed: int) -> tuple[FractalScorer, float]:
    samples = data.read(list(train))
    fmt = PixelFormat.of((sample.name, sample.read()) for sample in samples)
    method = create("fractalad", options={"strangeness": 1.0})
    begin = time.perf_counter()
    scorer = method.fit(samples, Run(size=SIZE, format=fmt, seed=seed))
    assert isinstance(scorer, FractalScorer)
    return scorer.eval(), time.perf_counter() - begin


@torch.no_grad()
def both(scorer: FractalScorer, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """What the head says, and how strange each place is."""
    heads, strange = [], []
    for picture in pictures:
        x = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        maps = scorer.teacher(x)
        heads.append(scorer.head(x, maps))
        strange.append(scorer.pair.strange(maps, SIZE))
    return torch.cat(heads), torch.cat(strange)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    store = Store(RESULTS / "strangeness.json")
    for seed in map(int, given.seeds.split(",")):
        for folder in given.folders:
            if not store.has({"dataset": folder.name, "seed": seed, "weight": WEIGHTS[-1]}):
                weigh(folder, seed, store)


def weigh(folder: Path, seed: int, store: Store) -> None:
    train, held = good_pictures(data.read(folder), seed)
    scorer, seconds = learnt(train, seed)
    good, source = both(scorer, held), defects.Source(held, defects.foregrounds(held))
    painted = {name: PAINTERS[name](source, PAINTED, seed=seed) for name in SORTS}
    found = {name: both(scorer, bad.pictures) for name, bad in painted.items()}
    for weight, name in product(WEIGHTS, SORTS):
        head, strange = map(torch.cat, zip(good, found[name], strict=True))
        heat, labels = head + weight * strange, [False] * len(held) + [True] * PAINTED
        masks = np.concatenate([np.zeros((len(held), *SIZE), bool), painted[name].masks])
        pixels = pixel_metrics(partial(zip, heat.numpy(), masks, strict=True))
        by_score = {kind: image_metrics(image_score(kind, heat).numpy(), labels).auroc for kind in SCORES}
        record = {"pixel_ap": pixels.ap, "pixel_auroc": pixels.auroc, "fit_seconds": seconds}
        key = {"dataset": folder.name, "seed": seed, "painted": name, "weight": weight}
        store.add(key, record | {"image_auroc": by_score["max"], "by_score": by_score})


if __name__ == "__main__":
    main()
