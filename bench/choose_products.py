"""How defaults of a model of several products are chosen: painted defects on held-out good images of each.

    python bench/choose_products.py ../shared/data/screw … [--painted strong faint unseen]

As in choose_defaults.py, but all products are learnt as one model; by `knn` each as its own, to compare. Half
of them keep all of their images and half a few, as in a long tail. Image AUROC of each product, and its mean,
goes into bench/results/choices-products.json as soon as it is there. No test image is ever opened.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import blemish
from blemish import data, defects
from blemish.data import Role, Samples
from blemish.evaluate.metrics import image_metrics
from choose_defaults import PAINTED, PAINTERS, SIZE, Pictures, good_pictures
from records import RESULTS, Store

RARE = 6
"""Images that are learnt from of every other product."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "UniAD": ("uniad", {}),
    "LTAD": ("ltad", {}),
    "LTAD, kappa = 16": ("ltad", {"kappa": 16.0}),
    "classifier alone": ("ltad", {"score_of": "sad"}),
    "classifier alone, means of classes": ("ltad", {"score_of": "sad", "groups": 0}),
    "classifier alone, 256 groups": ("ltad", {"score_of": "sad", "groups": 256}),
    "classifier alone, patches of 16 pixels": ("ltad", {"score_of": "sad", "sad_cell": 16}),
    "learned classifier alone": ("ltad", {"score_of": "sad", "semantic": "learned"}),
    "knn, a bank for each": ("knn", {}),
}

Asked = dict[str, tuple[Pictures, dict[str, defects.Faint]]]
"""Of each product pictures held out, and the same with defects of each sort."""


def together(learnt: dict[str, Pictures]) -> Samples:
    items = [
        replace(sample, klass=name, name=f"{name}/{sample.name}")
        for name, pictures in learnt.items()
        for sample in data.read(list(pictures)).role(Role.TRAIN)
    ]
    return Samples("products", "arrays", tuple(items))


def painted_on(folders: Sequence[Path], seed: int, sorts: Sequence[str]) -> tuple[dict[str, Pictures], Asked]:
    """Of each product the pictures to learn from, of every other one few; those held out, and defects."""
    learnt: dict[str, Pictures] = {}
    asked: Asked = {}
    for number, folder in enumerate(folders):
        train, held = good_pictures(data.read(folder), seed)
        learnt[folder.name] = train[:RARE] if number % 2 else train
        source = defects.Source(held, defects.foregrounds(held))
        asked[folder.name] = held, {sort: PAINTERS[sort](source, PAINTED, seed=seed) for sort in sorts}
    return learnt, asked


def fitted(
    learnt: dict[str, Pictures], method: str, options: dict[str, Any], *, seed: int, cache: Path | None
) -> dict[str, blemish.Inspector]:
    """Of each product its model: one of all, but by `knn` each its own."""
    fit = partial(blemish.fit, method=method, options=options, size=SIZE, seed=seed, cache=cache)
    if method == "knn":
        return {name: fit(together({name: learnt[name]})) for name in learnt}
    return dict.fromkeys(learnt, fit(together(learnt)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--painted", nargs="+", choices=PAINTERS, default=list(PAINTERS))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--cache", type=Path, help="a folder for features, which all variants share")
    given = parser.parse_args()
    store = Store(RESULTS / "choices-products.json")
    for seed in map(int, given.seeds.split(",")):
        learnt, asked = painted_on(given.folders, seed, given.painted)
        for variant in given.only:
            key = {"seed": seed, "variant": variant, "rare": [*learnt][1::2]}
            if not store.has(key):
                models = fitted(learnt, *VARIANTS[variant], seed=seed, cache=given.cache)
                store.add(key, judged(models, asked))


def judged(models: dict[str, blemish.Inspector], asked: Asked) -> dict[str, Any]:
    found: dict[str, dict[str, float | None]] = {}
    for name, (held, bad) in asked.items():
        good = [models[name].inspect(picture, klass=name).score for picture in held]
        for sort, made in bad.items():
            scores = good + [models[name].inspect(picture, klass=name).score for picture in made.pictures]
            labels = [False] * len(held) + [True] * len(made.pictures)
            found.setdefault(sort, {})[name] = image_metrics(scores, labels).auroc
    every = [value for of in found.values() for value in of.values() if value is not None]
    seconds = sum(model.manifest["fit_seconds"] for model in {*models.values()})
    return {"image_auroc": float(np.mean(every)), "by": found, "fit_seconds": seconds}


if __name__ == "__main__":
    main()
