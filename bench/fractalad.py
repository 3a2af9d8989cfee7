"""FractalAD, taken apart: one setting changed at a time, with the same budget and the same seeds.

    python bench/fractalad.py ../shared/data/screw … [--seeds 0,1] [--studies silhouette,student]

Each result goes into bench/results/fractalad-ablations.json as soon as it is there, and the same command goes
on where an interrupted one was. `python bench/figures.py` makes the tables of docs/fractalad.md.
"""

import argparse
from pathlib import Path
from typing import Any

import blemish
from records import RESULTS, Store, measured

BUDGET: dict[str, Any] = {"updates": 200, "check_every": 0, "strangeness": 0.0}
"""The same for all, and short: what settings are worth beside each other. Distances do not help the head."""
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "silhouette": {
        **{
            name: {"silhouette": name}
            for name in ("fractal", "square", "ellipse", "perlin", "diamond_square")
        },
        "fractal, 2 to 4 maps": {"maps": 4},
        "fractal, drawn at working size": {"brush": "working"},
    },
    "student": {
        "none, teacher alone": {"student": "off"},
        "codebook": {"student": "codebook"},
        "network": {"student": "network"},
    },
    "what the head is shown": {
        name: {"view": view}
        for name, view in (
            ("w · s", "ws"),
            ("w · t", "wt"),
            ("|t − s|", "difference"),
            ("s", "s"),
            ("t and w · s", "both"),
        )
    },
    "recolouring": {name: {"recolour": name} for name in ("none", "mild", "harsh", "channels", "mixed")},
    "noise": {"on": {}, "off": {"noise": False}},
    "dilation": {f"{pixels} px": {"dilation": pixels} for pixels in (0, 1, 3)},
    "place": {"on the object": {"objects": "on"}, "anywhere": {"objects": "off"}},
    "strangeness": {f"{weight:g}": {"strangeness": weight} for weight in (0.0, 1.0, 2.0, 4.0)},
    "image score": {name: {"score": name} for name in ("mean", "max", "top1", "q995")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--studies", default=",".join(STUDIES))
    given = parser.parse_args()
    store = Store(RESULTS / "fractalad-ablations.json")
    for seed in map(int, given.seeds.split(",")):
        for folder in given.folders:
            for study in given.studies.split(","):
                for name, options in STUDIES[study].items():
                    key = {"dataset": folder.name, "study": study, "variant": name, "seed": seed}
                    if not store.has(key):
                        model = blemish.fit(folder, method="fractalad", seed=seed, options=BUDGET | options)
                        store.add(key, measured(model, folder))


if __name__ == "__main__":
    main()
