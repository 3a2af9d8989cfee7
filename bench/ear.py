"""EAR beside what it is to be better than, on the same network, and taken apart.

    python bench/ear.py rivals ../shared/data/screw … [--seeds 0,1,2] [--preset fast]
    python bench/ear.py ablations ../shared/data/screw …
    python bench/ear.py throughput ../shared/data/screw

Each result goes into bench/results/ear-….json as soon as it is there, and the same
command goes on where an interrupted one was. `python bench/figures.py` makes the tables of docs/ear.md.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import blemish
from blemish import data
from blemish.data import Role
from blemish.model.inspector import Graph
from blemish.nets.runtime import export
from records import RESULTS, Store, bare, measured

RIVALS: dict[str, dict[str, Any]] = {
    "EAR v1": {},
    "RIAD, 12 passes": {"hide": "riad", "off": 0},
    "plain autoencoder": {"hide": "nothing", "off": 4, "off_in_training": 4},
    "random mask of the same area": {"hide": "random"},
    "mosaic": {"variant": "mosaic"},
    "two skips off in training too": {"off": 2, "off_in_training": 2},
    "EAR v1, by MSGMS": {"compare": "msgms"},
    "RIAD, by MSGMS": {"hide": "riad", "off": 0, "compare": "msgms"},
    "EAR v1, looked at at a quarter": {"reduction": 4},
}
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "mask": {
        "nothing hidden": {"hide": "nothing"},
        "attention from MNIST": {"saliency": "mnist"},
        "features": {"saliency": "features"},
        "spectral residual": {"saliency": "residual"},
        "differences of Gaussians": {"saliency": "gaussians"},
    },
    "skips off in inspection": {f"{count}": {"off": count} for count in range(5)},
    "skips off in training too": {
        f"{count}": {"off": count, "off_in_training": count} for count in (1, 3, 4)
    },
    "remedy, two skips off": {name: {"off": 2, "remedy": name} for name in ("none", "bn_recal", "mean_skip")},
    "threshold": {
        name: {"rule": name}
        for name in ("sigma1", "sigma2", "sigma3", "top1", "top5", "top10", "top25", "otsu")
    },
    "fill": {name: {"fill": name} for name in ("mean", "mosaic")},
    "loss": {name: {"loss": name} for name in ("l2", "l2+ssim")} | {"no likeness": {"likeness": 0.0}},
    "attention": {
        "at full size": {"reduction": 1},
        "not levelled": {"levelled": False},
        "dark strokes": {"polarity": "dark"},
        "bright strokes": {"polarity": "bright"},
        "two scales": {"scales": 2},
    },
    "comparison": {"MSGMS": {"compare": "msgms"}},
    "score": {"within the mask": {"region": "mask"}, "top 0.1 %": {"score": "top"}},
    "mosaic's cells": {f"{side} px": {"variant": "mosaic", "cell": side} for side in (2, 4, 8, 16, 32)},
}
WARM_UP, RUNS, TURNS = 5, 30, 6
ENOUGH = 500.0
"""Milliseconds that a graph is timed for in its turn, at least."""
FEW, SIZE = 8, (256, 256)
FASTER = (
    "EAR v1",
    "EAR v1, looked at at a quarter",
    "RIAD, 12 passes",
    "plain autoencoder",
    "random mask of the same area",
    "mosaic",
    "two skips off in training too",
    "EAR v1, by MSGMS",
    "RIAD, by MSGMS",
)
UNTRAINED = {"updates": 1, "batch": 1, "check_every": 0}
"""How long a picture takes depends on no weight."""
CELLS = {"mosaic": {"cell": 16}}
"""One size of cells, for a fit may choose among several."""
SLOWEST = {"fast": {"off": 0}, "full": {"off": 0}, "paper": {}}
"""Where a fit chooses which skips are off, none is."""


def timed(graph: Graph, batch: NDArray[np.float32]) -> float:
    begin = time.perf_counter()
    graph(batch)
    return (time.perf_counter() - begin) * 1e3


def graph_ms(model: blemish.Inspector, folder: Path) -> float:
    """Median of one picture through the graph, on as many threads as there are cores."""
    sample = data.read(folder).role(Role.TEST)[0]
    batch = model.pixels(sample.read(), sample.name)[None]
    return float(np.median([timed(model.graph, batch) for _ in range(WARM_UP + RUNS)][WARM_UP:]))


def throughput(given: argparse.Namespace) -> None:
    """A few pictures by each in turns, so that what slows the machine down slows all of them.

    Not one by each: the threads of the last graph still spin when the next one begins.
    """
    folder, store = given.folders[0], Store(RESULTS / "ear-throughput.json", times=True)
    few = data.few_shot(data.read(folder), FEW)
    for preset, slowest in SLOWEST.items():
        names = [name for name in FASTER if preset != "paper" or "MSGMS" not in name]  # there all are by it
        options = [UNTRAINED | slowest | CELLS.get(name, {}) | RIVALS[name] for name in names]
        found = [bare(few, "ear", preset, each, size=SIZE) for each in options]
        run = found[0].run
        graphs = [Graph(export(b.scorer, run.format.channels, SIZE, b.method.outputs)) for b in found]
        batch = run.pixels(few.role(Role.TRAIN)[:1])
        turns = np.array([[median_of_some(graph, batch) for graph in graphs] for _ in range(TURNS)])
        for number, name in enumerate(names):
            ratio = float(np.median(turns[:, number] / turns[:, 0]))
            told = {"threads": os.cpu_count(), "ms": float(np.median(turns[:, number])), "by_ear": ratio}
            store.add({"preset": preset, "variant": name}, told)


def median_of_some(graph: Graph, batch: NDArray[np.float32]) -> float:
    timed(graph, batch)
    times: list[float] = []
    while sum(times) < ENOUGH:
        times.append(timed(graph, batch))
    return float(np.median(times))


def measure(
    folder: Path,
    key: dict[str, Any],
    store: Store,
    *,
    options: dict[str, Any],
    preset: str = "fast",
    seed: int = 0,
) -> None:
    """Only `fast` is calibrated, for that may take two more fits: rates of verdicts alone need it."""
    if store.has(key):
        return
    if preset == "fast":
        model = blemish.fit(folder, method="ear", preset=preset, options=options, seed=seed)
        record = measured(model, folder)
    else:
        samples = data.hold_out(data.read(folder), seed=seed)
        model = bare(samples, "ear", preset, options, size=SIZE, seed=seed).judging()
        record = measured(model, folder) | {"false_reject_rate": None, "miss_rate": None}
    store.add(key, record | {"graph_ms": graph_ms(model, folder)})


def rivals(given: argparse.Namespace) -> None:
    store = Store(RESULTS / "ear-rivals.json")
    for seed in map(int, given.seeds.split(",")):
        for folder in given.folders:
            for name in given.only:
                key = {"dataset": folder.name, "preset": given.preset, "variant": name, "seed": seed}
                measure(folder, key, store, preset=given.preset, options=RIVALS[name], seed=seed)


def ablations(given: argparse.Namespace) -> None:
    store = Store(RESULTS / "ear-ablations.json")
    for folder in given.folders:
        for study, variants in ABLATIONS.items():
            for name, options in variants.items():
                key = {"dataset": folder.name, "study": study, "variant": name}
                measure(folder, key, store, options=options)


WHAT = {"rivals": rivals, "ablations": ablations, "throughput": throughput}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0,1,2", help="of the rivals; ablations have 0")
    parser.add_argument("--preset", default="fast", help="of the rivals")
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS))
    given = parser.parse_args()
    WHAT[given.what](given)


if __name__ == "__main__":
    main()
