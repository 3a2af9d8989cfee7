"""How long things take and how much memory they hold, in processes that have done nothing else before.

    python bench/speed.py --data ../shared/data/screw --json bench/results/speed.json
    python bench/speed.py --data … --methods knn,fractalad --json bench/results/speed-fractalad.json
    python bench/speed.py --data … --methods ear --preset full --json bench/results/speed-ear-full.json

Of some repetitions the median is told, with the least and the most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

import blemish
from blemish import data
from blemish.data import Role
from blemish.evaluate.bench import machine, versions

WARM_UP, GRAPH_RUNS = 30, 300
PERCENTILES = (50, 95, 99)
QUIET = 0.5
"""Load of the machine by others; one busy core of two makes the graph three times as slow."""
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Reading(NamedTuple):
    name: str
    unit: str
    value: float


def spent(*arguments: str) -> tuple[float, float]:
    """Seconds from start to end of a Python process, and the most megabytes that it held."""
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(
        child.pid, 0
    )  # of this child alone; RUSAGE_CHILDREN is the most of all so far
    seconds = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"python {' '.join(arguments)} ended with {child.returncode}.")
    return seconds, usage.ru_maxrss * RSS_UNIT / 1e6


def once(folder: Path, methods: Sequence[str], place: Path, more: Sequence[str]) -> Iterator[Reading]:
    """`more`: arguments for each fit."""
    yield Reading("import", "s", spent("-c", "import blemish")[0])
    yield Reading("help", "s", spent("-m", "blemish", "--help")[0])
    picture = str(data.read(folder).role(Role.TEST)[0].path)
    for method in methods:
        model = str(place / f"{method}.blemish")
        fit = ("fit", str(folder), "--method", method, "--out", model, *more)
        seconds, megabytes = spent("-m", "blemish", *fit)
        yield Reading(f"{method}.fit", "s", seconds)
        yield Reading(f"{method}.fit_rss", "MB", megabytes)
        yield Reading(f"{method}.inspect", "s", spent("-m", "blemish", "inspect", model, picture)[0])
        command = [sys.executable, __file__, "--data", str(folder), "--steady", model]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        yield from (Reading(f"{method}.{name}", "ms", value) for name, value in told.items())


def steady(model_file: Path, folder: Path) -> dict[str, float]:
    """Percentiles of the graph alone at batch 1, and from the file of each test picture to its verdict."""
    model = blemish.load(model_file)
    test = data.read(folder).role(Role.TEST)
    batch = model.pixels(test[0].read(), test[0].name)[None]
    graph = []
    for _ in range(WARM_UP + GRAPH_RUNS):
        begin = time.perf_counter()
        model.graph(batch)
        graph.append((time.perf_counter() - begin) * 1e3)
    verdict = [model.inspect(sample.path).ms for sample in test if sample.path is not None]
    return {
        f"{name}.p{percent}": float(np.percentile(times, percent))
        for name, times in (("graph", graph[WARM_UP:]), ("verdict", verdict))
        for percent in PERCENTILES
    }


def measure(folder: Path, methods: Sequence[str], runs: int, out: Path, more: Sequence[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > QUIET:
        print(f"Warning: the load is {load:.1f}, so what follows is too slow.", file=sys.stderr)
    by_name: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(runs):
            for name, unit, value in once(folder, methods, Path(place), more):
                print(f"{name} {value:.4g} {unit}", flush=True)
                by_name.setdefault((name, unit), []).append(value)
    figures = {
        name: {
            "median": median(values),
            "min": min(values),
            "max": max(values),
            "runs": len(values),
            "unit": unit,
        }
        for (name, unit), values in by_name.items()
    }
    result = {
        "schema": 1,
        "dataset": data.read(folder).name,
        "machine": machine(),
        "versions": versions(),
        "load_before": load,
        "figures": figures,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a data set with test images")
    parser.add_argument("--methods", default="knn,reb")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="a folder for features: of two calls the second has them")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--json", type=Path, help="measure all, and write it there")
    what.add_argument("--steady", type=Path, metavar="MODEL", help="print what one process found")
    given = parser.parse_args()
    if given.steady:
        print(json.dumps(steady(given.steady, given.data)))
    else:
        more = ["--preset", given.preset]
        more += [] if given.cache is None else ["--cache", str(given.cache)]
        measure(given.data, given.methods.split(","), given.runs, given.json, more)


if __name__ == "__main__":
    main()
