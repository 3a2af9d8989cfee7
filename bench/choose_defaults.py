"""How defaults are chosen: painted defects on held-out good images. No test image is ever opened.

    python bench/choose_defaults.py --json bench/results/choices.json ../shared/data/screw …

Of each data set's good training images at most 130 are taken and a quarter of them held out. The held-out
ones are the good side; the bad side is the same pictures with one defect of REB's DefectMaker each, faded to
between 15 and 70 % so that the task stays hard. What counts is the image AUROC between the two, averaged over
data sets and draws. The three products of the demo set are always added.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import blemish
from blemish import data, defects
from blemish.data import Role, Samples, demo
from blemish.evaluate.bench import machine, versions
from blemish.evaluate.metrics import image_metrics
from blemish.images import PixelFormat, resize, to_rgb8

SIZE = (256, 256)
MOST_IMAGES = 130
PAINTED = 96
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "knn, not whitened": ("knn", {"whiten": 0.0}),
    "knn, fully whitened": ("knn", {"whiten": 1.0}),
    # All with one alpha, for it is what is compared here; `auto` chooses for each product.
    "reb": ("reb", {"alpha": 1.0}),
    "reb, not whitened": ("reb", {"alpha": 1.0, "whiten": 0.0}),
    "reb, without places": ("reb", {"alpha": 1.0, "places": False}),
    "reb, alpha 0": ("reb", {"alpha": 0.0}),
    "reb, alpha 0.5": ("reb", {"alpha": 0.5}),
    "reb, alpha 1.5": ("reb", {"alpha": 1.5}),
    "reb, 1 neighbour": ("reb", {"alpha": 1.0, "neighbours": 1}),
    "reb, 30 neighbours": ("reb", {"alpha": 1.0, "neighbours": 30}),
    "reb, 2048 rows": ("reb", {"alpha": 1.0, "rows": 2048}),
    "reb, published density": ("reb", {"alpha": 1.0, "density": "paper", "squared": True, "neighbours": 9}),
}

Pictures = NDArray[np.uint8]


def good_pictures(samples: Samples, seed: int) -> tuple[Pictures, Pictures]:
    """Those to learn from, and those held out."""
    good = samples.role(Role.TRAIN)
    order = np.random.default_rng([seed, len(good)]).permutation(len(good))[:MOST_IMAGES]
    images = [good[int(i)].read() for i in order]
    fmt = PixelFormat.of((str(i), image) for i, image in enumerate(images))
    pictures = np.stack([to_rgb8(resize(image, SIZE), fmt) for image in images])
    held = max(8, len(pictures) // 4)
    return pictures[held:], pictures[:held]


def auroc(train: Pictures, held: Pictures, bad: Pictures, variant: str, seed: int) -> float:
    method, options = VARIANTS[variant]
    model = blemish.fit(list(train), method=method, options=options, size=SIZE, seed=seed)
    scores = [float(model.raw(picture).scores[0]) for picture in (*held, *bad)]
    found = image_metrics(scores, [False] * len(held) + [True] * len(bad)).auroc
    assert found is not None
    return found


def rounds(folders: list[Path], seeds: list[int]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        products = demo.write(Path(place), seed=7, train=100, test_good=1, test_bad=1)
        for folder in [*folders, *products]:
            for seed in seeds:
                train, held = good_pictures(data.read(folder), seed)
                bad = defects.faint(
                    defects.Source(held, defects.foregrounds(held)), PAINTED, seed=seed
                ).pictures
                for variant in VARIANTS:
                    value = auroc(train, held, bad, variant, seed)
                    print(folder.name, seed, variant, f"{100 * value:.1f}", flush=True)
                    yield {"dataset": folder.name, "seed": seed, "variant": variant, "auroc": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    records = list(rounds(given.folders, [int(seed) for seed in given.seeds.split(",")]))
    names = sorted({record["dataset"] for record in records})
    table = {
        variant: {
            name: mean(r["auroc"] for r in records if (r["variant"], r["dataset"]) == (variant, name))
            for name in names
        }
        for variant in VARIANTS
    }
    for row in table.values():
        row["mean"] = mean(row.values())
    result = {"schema": 1, "records": records, "table": table, "machine": machine(), "versions": versions()}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
