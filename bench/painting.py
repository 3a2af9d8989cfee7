"""How many painted pictures a second come out of the makers, and how many of them FractalAD learns from.

    python bench/painting.py ../shared/data/screw … --json bench/results/painting.json

Pictures of 256 pixels; of RUNS repetitions the median is told, with the least and the most. Silhouettes and
foregrounds are there before the clock starts, as they are in a training after its first seconds.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

import blemish
from blemish import data, defects
from blemish.data import Role, Samples
from blemish.evaluate.bench import machine, versions
from blemish.images import PixelFormat, resize, to_rgb8

SIZE = (256, 256)
RUNS = 5
PICTURES, DRAWS, WARM_UP = 64, 200, 40
UPDATES, BATCH = 180, 8
MAKERS = {"DefectMaker": "dm6", "fractals": "fractal"}


def source(samples: Samples) -> defects.Source:
    images = [sample.read() for sample in samples.role(Role.TRAIN)[:PICTURES]]
    fmt = PixelFormat.of((str(number), image) for number, image in enumerate(images))
    native = min(images[0].shape[:2])
    pictures = np.stack([to_rgb8(resize(image, SIZE), fmt) for image in images])
    return defects.Source(pictures, defects.foregrounds(pictures), native=native)


def drawn(maker: str, shown: defects.Source, threads: int) -> float:
    """Painted pictures a second; the clean one that comes with them is not counted."""

    def one(number: int) -> int:
        turn, picture = divmod(number, len(shown))
        return len(defects.make(maker, shown, picture, seed=0, epoch=turn).views) - 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(WARM_UP)))
        begin = time.perf_counter()
        painted = sum(pool.map(one, range(DRAWS)))
    return painted / (time.perf_counter() - begin)


def learnt(folder: Path) -> list[float]:
    """Painted pictures a second that FractalAD's head learns from, those drawn beside it, as it goes on."""
    ends: list[float] = []

    def progress(items: Any, label: str, total: int) -> Iterator[Any]:
        for item in items:
            if label == "learning":
                ends.append(time.perf_counter())
            yield item

    options = {"updates": UPDATES, "check_every": 0, "batch": BATCH}
    blemish.fit(folder, method="fractalad", options=options, progress=progress)
    marks = ends[: UPDATES : UPDATES // RUNS]
    return [BATCH * (UPDATES // RUNS) / (end - begin) for begin, end in pairwise(marks)]


def figure(values: list[float]) -> dict[str, Any]:
    runs = len(values)
    return {"median": median(values), "min": min(values), "max": max(values), "runs": runs, "unit": "1/s"}


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    shown = source(data.read(folder))
    for name, maker in MAKERS.items():
        for threads in (1, 2):
            values = [drawn(maker, shown, threads) for _ in range(RUNS)]
            yield {"dataset": folder.name, "what": name, "threads": threads, **figure(values)}
    yield {"dataset": folder.name, "what": "learnt from", "threads": os.cpu_count(), **figure(learnt(folder))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    result = {"schema": 1, "load_before": os.getloadavg()[0], "machine": machine(), "versions": versions()}
    records = []
    for folder in given.folders:
        for record in measured(folder):
            records.append(record)
            print(
                *(record[key] for key in ("dataset", "what", "threads")), f"{record['median']:.0f} a second"
            )
    given.json.write_text(json.dumps(result | {"records": records}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
