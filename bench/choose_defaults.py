"""How defaults are chosen: painted defects on held-out good images. No test image is ever opened.

    python bench/choose_defaults.py ../shared/data/screw … [--of fractalad]

Of each data set's good training images at most 130 are taken and a quarter of them held out. The held-out
ones are the good side; the bad side is the same pictures with one defect of REB's DefectMaker each, faded to
between 15 and 70 % so that the task stays hard. What counts is the image AUROC between the two, and for a
method whose point is the map its pixel AP, averaged over data sets and draws. The three products of the demo
set are added unless told. With --of few it is 23 images that are learnt from, or three quarters where there
are fewer, and up to 100 others that are held out: what helps with few images is seen on products of many.
Results go into bench/results/choices….json as soon as they are there.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import blemish
from blemish import data, defects
from blemish.data import Role, Samples, demo
from blemish.evaluate.metrics import image_metrics, pixel_metrics
from blemish.images import PixelFormat, resize, to_rgb8
from records import RESULTS, Store
from unseen import unseen

SIZE = (256, 256)
MOST_IMAGES = 130
FEW_IMAGES, MOST_HELD = 23, 100
PAINTED = 96
Variants = dict[str, tuple[str, dict[str, Any]]]
BANKS: Variants = {
    "knn": ("knn", {}),
    "knn, not whitened": ("knn", {"whiten": 0.0}),
    "knn, fully whitened": ("knn", {"whiten": 1.0}),
    # All with one alpha, for it is what is compared here; `auto` chooses for each product.
    "reb": ("reb", {"alpha": 1.0}),
    "reb, not whitened": ("reb", {"alpha": 1.0, "whiten": 0.0}),
    "reb, without places": ("reb", {"alpha": 1.0, "places": False}),
    "reb, alpha auto": ("reb", {}),
    "reb, alpha 0": ("reb", {"alpha": 0.0}),
    "reb, alpha 0.5": ("reb", {"alpha": 0.5}),
    "reb, alpha 1.5": ("reb", {"alpha": 1.5}),
    "reb, 1 neighbour": ("reb", {"alpha": 1.0, "neighbours": 1}),
    "reb, 30 neighbours": ("reb", {"alpha": 1.0, "neighbours": 30}),
    "reb, 2048 rows": ("reb", {"alpha": 1.0, "rows": 2048}),
    "reb, kdist_ratio": ("reb", {"scorer": "kdist_ratio", "neighbours": 9}),
    "reb, true LDOF": ("reb", {"scorer": "ldof", "neighbours": 9}),
    "reb, published density": ("reb", {"alpha": 1.0, "density": "paper", "squared": True, "neighbours": 9}),
}
# The head by itself: what is added to its answer bench/strangeness.py weighs.
HEAD = {"strangeness": 0.0, "score": "mean"}
FRACTALAD: Variants = {
    "for comparison: knn": ("knn", {}),
    "for comparison: reb": ("reb", {}),
    "a codebook as student": ("fractalad", HEAD),
    "teacher alone": ("fractalad", HEAD | {"student": "off"}),
    "a network as student": ("fractalad", HEAD | {"student": "network"}),
    "256 codes": ("fractalad", HEAD | {"codes": 256}),
    "shown t and w · s": ("fractalad", HEAD | {"view": "both"}),
}
LONGER = {"batch": 8, "width": 16}
EAR: Variants = {
    "fast": ("ear", {}),
    "three U-Nets": ("ear", {"members": 3}),
    "twice the width, 400 updates of 8": ("ear", LONGER | {"updates": 400}),
    "twice the width, 800 updates of 8": ("ear", LONGER | {"updates": 800, "check_every": 100}),
    "random squares": ("ear", {"hide": "random"}),
    "plain autoencoder": ("ear", {"hide": "nothing", "off": 4, "off_in_training": 4}),
    "no likeness": ("ear", {"likeness": 0.0}),
    "by MSGMS": ("ear", {"compare": "msgms"}),
    "not levelled": ("ear", {"levelled": False}),
    "looked at at full size": ("ear", {"reduction": 1}),
    "looked at at a quarter": ("ear", {"reduction": 4}),
    **{f"{count} skips off": ("ear", {"off": count}) for count in range(4)},
    "2 skips off, norms taken anew": ("ear", {"off": 2, "remedy": "bn_recal"}),
    "2 skips off, their means instead": ("ear", {"off": 2, "remedy": "mean_skip"}),
    "2 skips off in training, too": ("ear", {"off": 2, "off_in_training": 2}),
    "score: top 0.1 %": ("ear", {"score": "top"}),
    "score within the mask": ("ear", {"region": "mask"}),
    "mosaic": ("ear", {"variant": "mosaic"}),
}
# All with one alpha and the same small budget: what is compared is what the network learns.
SHORT = {"alpha": 0.5, "updates": 100, "head_updates": 15}
ADAPTATION: Variants = {
    "not adapted": ("reb", {"alpha": 0.5}),
    "not adapted, 12288 rows": ("reb", {"alpha": 0.5, "rows": 12288}),
    **{f"rate {rate:g}": ("reb", SHORT | {"learning_rate": rate}) for rate in (0.03, 0.01, 0.003, 0.001)},
}
UNIAD: Variants = {
    "for comparison: knn": ("knn", {}),
    **{f"whitened {power:g}": ("uniad", {"whiten": power}) for power in (0.0, 0.5, 1.0)},
}
# What is taken off distances is an average over images: with few of them it may do harm.
FEW: Variants = {
    "knn": ("knn", {}),
    "reb, alpha auto": ("reb", {}),
    "reb, alpha 0.5": ("reb", {"alpha": 0.5}),
    "reb, alpha 0.5, without places": ("reb", {"alpha": 0.5, "places": False}),
    "reb, alpha 1": ("reb", {"alpha": 1.0}),
    "reb, alpha 1, without places": ("reb", {"alpha": 1.0, "places": False}),
}
TAPS: Variants = {
    " + ".join(taps): ("reb", {"alpha": 0.5, "taps": taps})
    for taps in (
        ("s8", "s16"),
        ("s8",),
        ("s16",),
        ("s8", "s16a"),
        ("s8", "s16a", "s16"),
        ("s4", "s8", "s16"),
        ("s8", "s16", "s32a"),
        ("s8", "s4", "s16"),
        ("s8", "s4", "s16a", "s16"),
    )
}
PAINTERS: dict[str, Callable[..., defects.Faint]] = {
    "faint": defects.faint,
    "strong": partial(defects.faint, opacity=(0.8, 1.0)),
    "unseen": unseen,
}
VARIANTS = {
    "banks": BANKS,
    "fractalad": FRACTALAD,
    "ear": EAR,
    "adaptation": ADAPTATION,
    "uniad": UNIAD,
    "few": FEW,
    "taps": TAPS,
}

Pictures = NDArray[np.uint8]


def good_pictures(samples: Samples, seed: int, learn: int | None = None) -> tuple[Pictures, Pictures]:
    """Those to learn from, and those held out."""
    good = samples.role(Role.TRAIN)
    most = MOST_IMAGES if learn is None else learn + MOST_HELD
    order = np.random.default_rng([seed, len(good)]).permutation(len(good))[:most]
    images = [good[int(i)].read() for i in order]
    fmt = PixelFormat.of((str(i), image) for i, image in enumerate(images))
    pictures = np.stack([to_rgb8(resize(image, SIZE), fmt) for image in images])
    held = max(8, len(pictures) // 4, 0 if learn is None else len(pictures) - learn)
    return pictures[held:], pictures[:held]


def measured(model: blemish.Inspector, held: Pictures, bad: defects.Faint) -> dict[str, Any]:
    found = [model.raw(picture) for picture in (*held, *bad.pictures)]
    masks = np.concatenate([np.zeros((len(held), *SIZE), bool), bad.masks])
    image = image_metrics([raw.scores[0] for raw in found], [False] * len(held) + [True] * len(bad.pictures))
    pixels = pixel_metrics(lambda: zip((raw.maps[0] for raw in found), masks, strict=True))
    heat = [raw.maps[0] for raw in found]
    return {
        "image_auroc": image.auroc,
        "pixel_ap": pixels.ap,
        "fit_seconds": model.manifest["fit_seconds"],
        "by_score": by_score(heat, len(held)) if model.manifest["method"] == "fractalad" else None,
    }


def by_score(maps: list[NDArray[np.float32]], held: int) -> dict[str, float | None]:
    """Image AUROC with each of FractalAD's ways from map to score: they need no fit of their own."""
    from torch import from_numpy

    from blemish.nets.sfnet import image_score

    heat = from_numpy(np.stack(maps))
    bad = [False] * held + [True] * (len(maps) - held)
    kinds = ("mean", "max", "top1", "q995")
    return {kind: image_metrics(image_score(kind, heat).numpy(), bad).auroc for kind in kinds}


def rounds(folders: list[Path], seeds: list[int], drawn: bool) -> Iterator[tuple[str, int, Samples]]:
    with tempfile.TemporaryDirectory() as place:
        products = demo.write(Path(place), seed=7, train=100, test_good=1, test_bad=1) if drawn else []
        for seed in seeds:
            for folder in [*folders, *products]:
                yield folder.name, seed, data.read(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--of", choices=VARIANTS, default="banks")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument(
        "--painted", nargs="+", choices=PAINTERS, default=["faint"], help="unseen: as no maker paints them"
    )
    parser.add_argument("--only", nargs="+", help="some of the variants")
    parser.add_argument("--only-folders", action="store_true", help="leave the demo set out")
    given = parser.parse_args()
    stores = {painted: store(given.of, painted) for painted in given.painted}
    for name, seed, samples in rounds(
        given.folders, [int(seed) for seed in given.seeds.split(",")], not given.only_folders
    ):
        train, held = good_pictures(samples, seed, FEW_IMAGES if given.of == "few" else None)
        source = defects.Source(held, defects.foregrounds(held))
        bad = {painted: PAINTERS[painted](source, PAINTED, seed=seed) for painted in stores}
        for variant, (method, options) in VARIANTS[given.of].items():
            if given.only and variant not in given.only:
                continue
            key = {"dataset": name, "seed": seed, "variant": variant}
            wanted = [painted for painted in stores if not stores[painted].has(key)]
            if not wanted:
                continue
            model = blemish.fit(list(train), method=method, options=options, size=SIZE, seed=seed)
            for painted in wanted:
                stores[painted].add(key, measured(model, held, bad[painted]))


def store(of: str, painted: str) -> Store:
    parts = [of] * (of != "banks") + [painted] * (painted != "faint")
    return Store(RESULTS / f"{'-'.join(['choices', *parts])}.json")


if __name__ == "__main__":
    main()
