"""REB, measured: with and without adaptation, with and without local density; and what each part is worth.

    python bench/reb.py cells ../shared/data/screw … --weights ../shared/weights/resnet18….safetensors
    python bench/reb.py ablations ../shared/data/screw …
    python bench/reb.py paired ../shared/data/screw …

Each result goes into bench/results/reb-….json as soon as it is there, and the same
command goes on where an interrupted one was. `python bench/figures.py` makes the tables of docs/reb.md.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save_file

import blemish
from blemish import data
from blemish.images import write_png
from records import RESULTS, Store, measured

ADAPTED = "patches.backbone."
METHODS = {"kNN": "knn", "LDKNN": "reb"}
Fit = Callable[..., blemish.Inspector]
PLAIN = {"alpha": 0.0, "places": False}
SHORT = {"updates": 60, "head_updates": 10}
"""The same small budget for all proxy tasks: what they are worth beside each other, not at their best."""


@dataclass(frozen=True)
class Variant:
    study: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    few_shot: int | None = None
    anywhere: bool = False
    """Whether defects are painted on the background, too."""


ABLATIONS = (
    Variant("scorer", "nearest neighbour", PLAIN),
    *(
        Variant("scorer", f"{scorer}, 9 neighbours", {"scorer": scorer, "neighbours": 9})
        for scorer in ("knn", "kthnn", "kdist_ratio", "lof", "ldof")
    ),
    Variant("scorer", "gde", {"scorer": "gde"}),
    Variant(
        "scorer", "ldknn as published", {"density": "paper", "squared": True, "neighbours": 9, "alpha": 1.0}
    ),
    Variant("scorer", "ldknn", {}),
    *(
        Variant(
            "K, published density",
            f"K = {count}",
            {"density": "paper", "squared": True, "neighbours": count, "alpha": 1.0},
        )
        for count in (1, 3, 9, 45)
    ),
    *(
        Variant(
            "alpha, published density",
            f"alpha = {alpha:g}",
            {"density": "paper", "neighbours": 9, "alpha": alpha},
        )
        for alpha in (0.25, 0.5, 1.0)
    ),
    *(
        Variant("alpha, represented density", f"alpha = {alpha:g}", {"alpha": alpha, "places": False})
        for alpha in (0.0, 0.5, 1.0, 1.5)
    ),
    *(
        Variant("rows", f"{name}, {rows}", {"rows": rows} | extra)
        for rows in (768, 3072, 12288)
        for name, extra in (("nearest neighbour", PLAIN), ("ldknn", {}))
    ),
    *(
        Variant("good images", f"{name}, {count}", dict(extra), few_shot=count)
        for count in (2, 5, 10, 20)
        for name, extra in (("nearest neighbour", PLAIN), ("ldknn", {}))
    ),
)
PROXIES = (
    Variant("adaptation", "none", PLAIN),
    *(
        Variant("adaptation", maker, PLAIN | SHORT | {"maker": maker})
        for maker in ("dm6", "cut3", "noise3", "blob2", "scar2", "clump2", "cutpaste3", "draem2")
    ),
    Variant("adaptation", "dm6, painted anywhere", PLAIN | SHORT, anywhere=True),
    Variant("adaptation", "dm6, batch norms train", PLAIN | SHORT | {"batch_norm": "train"}),
    Variant("adaptation", "dm6, early blocks train", PLAIN | SHORT | {"early": "train"}),
    Variant("adaptation", "dm6, only the last tap's block trains", PLAIN | SHORT | {"early": "deep"}),
    Variant("adaptation", "dm6, a tenth of the learning rate", PLAIN | SHORT | {"learning_rate": 0.003}),
)


def cells(folder: Path, seeds: list[int], weights: Path | None, store: Store) -> None:
    """{ImageNet, adapted} × {kNN, LDKNN}; what adapts is `reb --preset full`."""

    def measure(backbone: str, features: str, scorer: str, seed: int, fit: Fit, **options: Any) -> None:
        key = {
            "dataset": folder.name,
            "backbone": backbone,
            "features": features,
            "scorer": scorer,
            "seed": seed,
        }
        if not store.has(key):
            store.add(key, measured(fit(folder, seed=seed, backbone=backbone, **options), folder))

    for seed in seeds:
        for scorer, method in METHODS.items():
            measure("lite0", "ImageNet", scorer, seed, blemish.fit, method=method)
            if weights is not None:
                measure("resnet18", "ImageNet", scorer, seed, blemish.fit, method=method, weights=weights)
    with tempfile.TemporaryDirectory() as place:
        adapted = Path(place) / "adapted.safetensors"

        def full(folder: Path, **given: Any) -> blemish.Inspector:
            model = blemish.fit(folder, method="reb", preset="full", say=print, **given)
            tensors = load(model.archive.weights).items()
            own = {name.removeprefix(ADAPTED): value for name, value in tensors if name.startswith(ADAPTED)}
            save_file(own, adapted)
            return model

        measure("lite0", "adapted", "LDKNN", 0, full)
        if adapted.exists():
            measure("lite0", "adapted", "kNN", 0, blemish.fit, method="knn", weights=adapted)


def paired(folder: Path, seeds: list[int], store: Store) -> None:
    """LDKNN less plain nearest neighbours on the same pictures, and the standard error of that."""
    test = data.read(folder).role(data.Role.TEST)
    bad = torch.tensor([sample.bad for sample in test])
    for seed in seeds:
        key = {"dataset": folder.name, "seed": seed}
        if store.has(key):
            continue
        wins, seconds = {}, {}
        for scorer, method in METHODS.items():
            model = blemish.fit(folder, method=method, seed=seed)
            scores = torch.tensor([model.inspect(sample.read()).score for sample in test])
            good, defective = scores[~bad], scores[bad]
            wins[scorer] = (defective[:, None] > good).float() + 0.5 * (defective[:, None] == good)
            seconds[scorer] = model.manifest["fit_seconds"]
        gain = wins["LDKNN"] - wins["kNN"]
        record = {"good": gain.shape[1], "bad": len(gain), "gain": float(gain.mean()), "error": error(gain)}
        rates = {"image_auroc": float(wins["LDKNN"].mean()), "fit_seconds": sum(seconds.values())}
        store.add(key, record | rates)


def error(gains: torch.Tensor) -> float:
    """Standard error of the mean of `gains` (bad, good): by the spread of each side's own means."""
    return math.sqrt(sum(float(side.var()) / len(side) for side in (gains.mean(0), gains.mean(1))))


def ablations(folder: Path, variants: Iterator[Variant], store: Store) -> None:
    for variant in variants:
        key = {"dataset": folder.name, "study": variant.study, "variant": variant.name}
        if store.has(key):
            continue
        given: dict[str, Any] = {"options": variant.options, "few_shot": variant.few_shot}
        with tempfile.TemporaryDirectory() as place:
            if variant.anywhere:
                given["foreground"] = everywhere(data.read(folder), Path(place))
            store.add(key, measured(blemish.fit(folder, method="reb", **given), folder))


def everywhere(samples: data.Samples, place: Path) -> Path:
    """Masks that call all of every picture the product."""
    for sample in samples.role(data.Role.TRAIN):
        mask = np.full(sample.read().shape[:2], 255, np.uint8)
        file = (place / sample.name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, mask)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("cells", "paired", "ablations", "proxies"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument(
        "--seeds", default="0,1,2", help="of the cells that take seconds; adapted ones have 0"
    )
    parser.add_argument("--weights", type=Path, help="of a ResNet-18, for its column of the cells")
    given = parser.parse_args()
    for folder in given.folders:
        seeds = [int(seed) for seed in given.seeds.split(",")]
        if given.what == "cells":
            cells(folder, seeds, given.weights, Store(RESULTS / "reb-cells.json"))
        elif given.what == "paired":
            paired(folder, seeds, Store(RESULTS / "reb-paired.json"))
        else:
            variants = ABLATIONS if given.what == "ablations" else PROXIES
            ablations(folder, iter(variants), Store(RESULTS / "reb-ablations.json"))


if __name__ == "__main__":
    main()
