"""What pictures taken another time do to scores: how the closed form of `ltad` came to level them.

    python bench/another_time.py ../shared/data/screw … [--only …]

As in choose_products.py: painted defects on held-out good images of several products, of which every other
has few to learn from. All that is judged, good and defective, is shown as it is, then as `ltad` sways
pictures (light, focus, noise), then in ways that it does not sway them: gamma, a gradient and a tint of the
light, a move and a turn, and JPEG. Every picture is changed by a draw of its own. Image AUROC of each
product, and its mean, goes into bench/results/choices-another-time.json. No test image is ever opened.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

import blemish
from blemish.evaluate.metrics import image_metrics
from blemish.images import PixelFormat
from blemish.methods._conditions import taken_again
from choose_defaults import Pictures
from choose_products import Asked, fitted, painted_on
from records import RESULTS, Store

Picture = NDArray[np.uint8]
SORTS = ("strong", "faint", "unseen")
SHOWN = 40
"""Painted pictures of each sort, of each product."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier alone": ("ltad", {"score_of": "sad"}),
    "not levelled": ("ltad", {"score_of": "sad", "levelled": 0.0}),
    "levelled wholly": ("ltad", {"score_of": "sad", "levelled": 1.0}),
    "not swayed": ("ltad", {"score_of": "sad", "swayed": 0.0}),
    "neither": ("ltad", {"score_of": "sad", "levelled": 0.0, "swayed": 0.0}),
    "knn, a bank for each": ("knn", {}),
}


def swayed(picture: Picture, rng: Generator) -> Picture:
    again = taken_again(picture, PixelFormat("uint8", picture.shape[2], 0.0, 255.0), rng)
    return again.astype(np.uint8)


def otherwise(picture: Picture, rng: Generator) -> Picture:
    height, width, channels = picture.shape
    seen = (picture / 255) ** rng.uniform(0.85, 1.18)
    angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    seen *= (1 + rise * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    seen *= 1 + rng.uniform(-0.03, 0.03, channels)
    move = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-1.5, 1.5), 1)
    move[:, 2] += rng.uniform(-3, 3, 2)
    seen = cv2.warpAffine(seen, move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    levels = np.rint(seen.reshape(picture.shape) * 255).clip(0, 255).astype(np.uint8)
    told, file = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 96))])
    assert told
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_UNCHANGED), np.uint8).reshape(picture.shape)


Change = Callable[[Picture, Generator], Picture]
TIMES: dict[str, Change] = {
    "as they are": lambda picture, _: picture,
    "swayed": swayed,
    "otherwise": otherwise,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--cache", type=Path, help="a folder for features, which all variants share")
    given = parser.parse_args()
    store = Store(RESULTS / "choices-another-time.json")
    for seed in map(int, given.seeds.split(",")):
        learnt, asked = painted_on(given.folders, seed, SORTS)
        for variant in given.only:
            key = {"seed": seed, "variant": variant, "rare": [*learnt][1::2]}
            if not store.has(key):
                models = fitted(learnt, *VARIANTS[variant], seed=seed, cache=given.cache)
                store.add(key, judged(models, asked, seed))


def judged(models: dict[str, blemish.Inspector], asked: Asked, seed: int) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    for when, change in TIMES.items():
        for product, (name, (held, bad)) in enumerate(asked.items()):
            parts = [held, *(bad[sort].pictures[:SHOWN] for sort in SORTS)]
            good, *wrong = (
                [
                    models[name].inspect(picture, klass=name).score
                    for picture in changed(pictures, change, (seed, product, part))
                ]
                for part, pictures in enumerate(parts)
            )
            rates = [
                image_metrics(good + each, [False] * len(good) + [True] * len(each)).auroc for each in wrong
            ]
            found.setdefault(when, {})[name] = float(np.mean([rate for rate in rates if rate is not None]))
    every = [rate for of in found.values() for rate in of.values()]
    seconds = sum(model.manifest["fit_seconds"] for model in {*models.values()})
    return {"image_auroc": float(np.mean(every)), "by": found, "fit_seconds": seconds}


def changed(pictures: Pictures, change: Change, draw: tuple[int, ...]) -> Iterator[Picture]:
    for number, picture in enumerate(pictures):
        yield change(picture, np.random.default_rng([*draw, number]))


if __name__ == "__main__":
    main()
