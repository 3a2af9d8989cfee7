"""What other light does: good pictures held out, and defects painted on them, as they are and swayed.

    python bench/light.py ../shared/data/screw …

As in choose_defaults.py good training images are learnt from and strong defects painted on others. Brightness
and contrast of what is judged are then changed by up to a tenth, as REB does before it paints. Results go
into bench/results/light.json.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import blemish
from blemish import data, defects
from blemish.defects.augment import jitter
from blemish.evaluate.metrics import image_metrics
from choose_defaults import PAINTED, PAINTERS, SIZE, Pictures, good_pictures
from records import RESULTS, Store

MSGMS = {"compare": "msgms", "reduction": 1, "updates": 600}
"""What `ear` did when its training in swayed light was decided on."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "reb": ("reb", {}),
    "fractalad": ("fractalad", {}),
    "uniad": ("uniad", {}),
    "ltad's classifier": ("ltad", {"score_of": "sad"}),
    "ear by MSGMS, trained in one light": ("ear", MSGMS | {"light": 0.0}),
    "ear by MSGMS": ("ear", MSGMS),
    "ear, trained in one light": ("ear", {"light": 0.0}),
    "ear": ("ear", {}),
}
DARKER = 0.93


def relit(pictures: Pictures, seed: int) -> Pictures:
    return np.stack(
        [
            jitter(picture, np.random.default_rng([seed, number]), grey=True)
            for number, picture in enumerate(pictures)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    store = Store(RESULTS / "light.json")
    for seed in map(int, given.seeds.split(",")):
        for folder in given.folders:
            train, held = good_pictures(data.read(folder), seed)
            source = defects.Source(held, defects.foregrounds(held))
            bad = PAINTERS["strong"](source, PAINTED, seed=seed).pictures
            for variant in given.only:
                key = {"dataset": folder.name, "seed": seed, "variant": variant}
                if not store.has(key):
                    method, options = VARIANTS[variant]
                    model = blemish.fit(list(train), method=method, options=options, size=SIZE, seed=seed)
                    store.add(key, judged(model, held, bad, seed))


def judged(model: blemish.Inspector, held: Pictures, bad: Pictures, seed: int) -> dict[str, Any]:
    def scores(pictures: Pictures) -> list[float]:
        return [model.inspect(picture).score for picture in pictures]

    def auroc(good: list[float], defective: list[float]) -> float | None:
        labels = [False] * len(good) + [True] * len(defective)
        return image_metrics(good + defective, labels).auroc

    good, defective = scores(held), scores(bad)
    darker = np.rint(held * DARKER).astype(np.uint8)
    return {
        "image_auroc": auroc(good, defective),
        "all_relit": auroc(scores(relit(held, seed + 1)), scores(relit(bad, seed + 2))),
        "good_relit": auroc(scores(relit(held, seed + 1)), defective),
        "good_darker": auroc(scores(darker), defective),
        "fit_seconds": model.manifest["fit_seconds"],
    }


if __name__ == "__main__":
    main()
