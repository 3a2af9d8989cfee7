"""Every number of README.md and the tables of docs, from bench/results, and the picture, from the demo set.

python bench/figures.py            # writes README.md and docs/demo.png
python bench/figures.py --check    # exits with 1 if numbers in them are others than the results'
"""

import argparse
import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

import blemish
from blemish import data
from blemish.data import Sample, demo
from blemish.evaluate.writing import write_text
from blemish.images import resize, write_png
from tables import (
    NONE,
    RATES,
    Table,
    ablations,
    choices,
    evidence,
    few,
    light,
    long_tailed,
    long_tailed_in_short,
    ltad_ablations,
    ltad_weights,
    paired,
    products,
    reb_cells,
    rivals,
    scores,
    strangeness,
    strangers,
    throughput,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
METHODS, PEERS = ("knn", "reb"), ("PatchCore", "PaDiM")
MAP_RATES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro30")

TILE, GAP, CAPTION = 150, 4, 18
SEED = 1
DEFECTIVE = 2
NOISE = np.uint8(3)
"""The lowest bits of a photograph: without them the file is a third smaller, and nobody sees it."""

Picture = NDArray[np.uint8]


def stored(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SystemExit(f"{path.relative_to(ROOT)} is missing: see `blemish bench` and bench/speed.py.")
    text = path.read_text("utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def accuracy(result: Mapping[str, Any], peer: Mapping[str, Any]) -> Table:
    if result["failed"]:
        raise SystemExit("accuracy.json has failed jobs: run the same bench again before it is quoted.")
    groups = {(group["dataset"], group["method"]): group for group in result["groups"] if as_shipped(group)}
    yield ["data set", *(f"{method}, fit s" for method in METHODS), *(f"{peer['name']} {p}" for p in PEERS)]
    for name in dict.fromkeys(name for name, _ in groups):
        known = peer["accuracy"].get(name, {})
        yield [
            f"`{name}`",
            *(ours(groups.get((name, method))) for method in METHODS),
            *(theirs(known.get(method)) for method in PEERS),
        ]


def maps(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Beside the methods of the README's bench, with what tells how well they show the defect."""
    others = [stored(RESULTS / f"{name}.json")["groups"] for name in ("accuracy", "fractalad-full")]
    every = [*others[0], *result["groups"], *others[1]]
    shown = [group for group in every if group["backbone"] == "lite0" and not group["options"]]
    columns = list(dict.fromkeys((group["method"], group["preset"]) for group in shown))
    yield ["data set", *(" ".join(column) for column in columns)]
    for name in dict.fromkeys(group["dataset"] for group in shown):
        own = {(group["method"], group["preset"]): group for group in shown if group["dataset"] == name}
        yield [f"`{name}`", *(timed(own.get(column)) for column in columns)]


def timed(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return NONE
    fit, shown = group["fit_seconds"]["mean"], group["ms_p50"]["mean"]
    return f"{rates(group, MAP_RATES)}, {fit:.0f} s, {shown:.1f} ms"


def as_shipped(group: Mapping[str, Any]) -> bool:
    settings = group["preset"], group["backbone"], group["size"], group["options"]
    return settings == ("fast", "lite0", [256, 256], {})


def ours(group: Mapping[str, Any] | None) -> str:
    return NONE if group is None else f"{rates(group, RATES)}, {group['fit_seconds']['mean']:.0f} s"


def rates(group: Mapping[str, Any] | None, kinds: Sequence[str]) -> str:
    if group is None:
        return NONE
    told = [NONE if group[rate]["mean"] is None else f"{100 * group[rate]['mean']:.1f}" for rate in kinds]
    for place, rate in enumerate(kinds):
        if rate in ("image_auroc", "pixel_ap") and group[rate]["std"] is not None:
            told[place] += f" ± {100 * group[rate]['std']:.1f}"
    return " / ".join(told)


def theirs(known: Mapping[str, Any] | None) -> str:
    if known is None:
        return NONE
    return " / ".join(f"{percent:.1f}" for percent in known["percent"]) + coreset(known)


def coreset(known: Mapping[str, Any]) -> str:
    return f" ({known['coreset']:g} %)" if "coreset" in known else ""


SPEEDS = (
    ("most memory while fitting", "fit_rss", "GB"),
    ("the graph alone, p50 / p95 / p99", "graph", "ms"),
    ("from file to verdict, p50 / p95 / p99", "verdict", "ms"),
    ("`blemish inspect` of one picture, whole process", "inspect", "s"),
)
"""Of each method: what, its name in the results, and the unit to tell it in."""


def speed(result: Mapping[str, Any], peer: Mapping[str, Any]) -> Table:
    found, known = result["figures"], peer["speed"]
    if result["dataset"] != known["dataset"]:
        raise SystemExit(f"speed.json is of {result['dataset']}, and the peer's speed of {known['dataset']}.")
    yield ["", *METHODS, *(f"{peer['name']} {name}{coreset(known[name])}" for name in PEERS)]
    for label, figure, unit in (
        (f"fit on `{known['dataset']}`", "fit", "s"),
        *SPEEDS,
        ("`--help`, whole process", "help", "s"),
        ("`import blemish`, whole process", "import", "s"),
    ):
        yield [
            label,
            *(measured(found, method, figure, unit) for method in METHODS),
            *(quoted(known[name].get(figure), unit) for name in PEERS),
        ]


def speeds(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    """Of methods beside each other, without peers."""
    found = result["figures"]
    methods = list(dict.fromkeys(name.partition(".")[0] for name in found if "." in name))
    yield ["", *methods]
    for label, figure, unit in ((f"fit on `{result['dataset']}`", "fit", "s"), *SPEEDS):
        yield [label, *(measured(found, method, figure, unit) for method in methods)]


def painting(result: Mapping[str, Any], _: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(record["dataset"] for record in result["records"]))
    yield ["painted pictures a second", "threads", *(f"`{name}`" for name in names)]
    kinds = dict.fromkeys((record["what"], record["threads"]) for record in result["records"])
    for what, threads in kinds:
        own = {r["dataset"]: r for r in result["records"] if (r["what"], r["threads"]) == (what, threads)}
        yield [what, str(threads), *(middle_of(own[name]) if name in own else NONE for name in names)]


def middle_of(record: Mapping[str, Any]) -> str:
    return f"{record['median']:.0f} ({record['min']:.0f}–{record['max']:.0f})"


def measured(found: Mapping[str, Any], method: str, figure: str, unit: str) -> str:
    """Medians; with the least and the most, where there are no percentiles to show how far it varies."""
    if figure in ("graph", "verdict"):
        values = [found[f"{method}.{figure}.p{percent}"]["median"] for percent in (50, 95, 99)]
        return " / ".join(f"{value:.3g}" for value in values) + f" {unit}"
    one = found.get(f"{method}.{figure}") or found[figure]
    scale = 1e-3 if (one["unit"], unit) == ("MB", "GB") else 1
    middle, least, most = (f"{scale * one[key]:.3g}" for key in ("median", "min", "max"))
    return f"{middle} {unit} ({least}–{most})"


def quoted(span: Sequence[float] | None, unit: str) -> str:
    return NONE if span is None else "–".join(f"{value:g}" for value in dict.fromkeys(span)) + f" {unit}"


def markdown(table: Table) -> str:
    header, *rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def by_sort(result: Mapping[str, Any], _: Mapping[str, Any], *, of: str) -> Table:
    """The same variants on defects of each sort: means over data sets, and each of them."""
    records = {
        sort: stored(RESULTS / f"choices-{of}-{sort}.json")["records"] for sort in ("strong", "unseen")
    }
    records["faint"] = result["records"]
    names = sorted({record["dataset"] for record in result["records"]})
    yield ["defects", "", "mean", *(f"`{name}`" for name in names)]
    for sort in ("strong", "faint", "unseen"):
        for variant, *rates in list(choices({"records": records[sort]}, {}))[1:]:
            yield [sort, variant, *rates]


class Shown(NamedTuple):
    results: str
    """Their file, without its suffix."""
    draw: Callable[..., Table]


DOCUMENTS: Mapping[str, Mapping[str, Shown]] = {
    "README.md": {"accuracy": Shown("accuracy", accuracy), "speed": Shown("speed", speed)},
    "docs/choices.md": {
        "choices": Shown("choices", choices),
        "few": Shown("choices-few", partial(by_sort, of="few")),
        "taps": Shown("choices-taps", partial(by_sort, of="taps")),
        "light": Shown("light", light),
        "ear-choices": Shown("choices-ear-strong", choices),
        "products": Shown("choices-products", products),
        "another-time": Shown("choices-another-time", products),
        "scores": Shown("choices-scores", scores),
    },
    "docs/reb.md": {
        "reb-cells": Shown("reb-cells", reb_cells),
        "reb-ablations": Shown("reb-ablations", ablations),
        "reb-rates": Shown("choices-adaptation-unseen", choices),
        "reb-paired": Shown("reb-paired", paired),
        "painting": Shown("painting", painting),
    },
    "docs/fractalad.md": {
        "maps": Shown("fractalad", maps),
        "speeds": Shown("speed-fractalad", speeds),
        "fractalad-ablations": Shown("fractalad-ablations", ablations),
        "fractalad-ablations-map": Shown("fractalad-ablations", partial(ablations, rate="pixel_ap")),
        "strangeness": Shown("strangeness", strangeness),
        "fractalad-choices": Shown("choices-fractalad", choices),
        "fractalad-choices-map": Shown("choices-fractalad", partial(choices, rate="pixel_ap")),
    },
    "docs/ear.md": {
        "ear-rivals": Shown("ear-rivals", rivals),
        "ear-throughput": Shown("ear-throughput", throughput),
        "ear-speed": Shown("speed-ear", speeds),
        "ear-speed-full": Shown("speed-ear-full", speeds),
    },
    "docs/ltad.md": {
        "ltad": Shown("ltad", long_tailed),
        "ltad-in-short": Shown("ltad", long_tailed_in_short),
        "ltad-ablations": Shown("ltad", ltad_ablations),
        "ltad-weights": Shown("ltad", ltad_weights),
        "ltad-few": Shown("ltad-few", few),
        "ltad-evidence": Shown("ltad-evidence", evidence),
        "ltad-strangers": Shown("ltad-strangers", strangers),
        "ltad-speed": Shown("speed-ltad", speeds),
    },
}


def filled(document: str, text: str) -> str:
    """With the tables between their markers drawn anew."""
    peer = stored(ROOT / "bench" / "peer.toml")
    for name, shown in DOCUMENTS[document].items():
        marker, end = f"<!-- figures:{name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(marker)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{document} has no place for numbers: give it {marker.strip()} and {end}.")
        text = (
            before
            + marker
            + markdown(shown.draw(stored(RESULTS / f"{shown.results}.json"), peer))
            + end
            + after
        )
    return text


def sheet() -> Picture:
    """Of each product the first picture of two kinds of defect and of the good ones, whatever they score."""
    with tempfile.TemporaryDirectory() as place:
        products = demo.write(Path(place), seed=SEED, test_good=1, test_bad=4)
        strips = [strip(folder) for folder in products]
    return beside(strips, 4 * GAP) | NOISE


def strip(folder: Path) -> Picture:
    samples = data.read(folder)
    model = blemish.fit(samples, method="reb", preset="fast")
    test = samples.role(data.Role.TEST)
    first = {sample.kind: sample for sample in reversed(test)}
    kinds = [*sorted(first.keys() - {"good"})[:DEFECTIVE], "good"]
    return beside([column(model, first[kind]) for kind in kinds], GAP)


def column(model: blemish.Inspector, sample: Sample) -> Picture:
    image = sample.read()
    mask = sample.read_mask((image.shape[0], image.shape[1]))
    photograph = np.asarray(resize(image, (TILE, TILE)), np.uint8)
    seen = model.overlay(photograph, model.inspect(image), mask=mask)
    caption = np.full((CAPTION, TILE, 3), 255, np.uint8)
    words = sample.kind.replace("_", " ")
    cv2.putText(caption, words, (1, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (60, 60, 60), 1, cv2.LINE_AA)
    gap = np.full((GAP, TILE, 3), 255, np.uint8)
    return np.vstack([caption, photograph, gap, seen])


def beside(pictures: Sequence[Picture], gap: int) -> Picture:
    white = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, white)][:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text("utf-8")
        drawn = filled(document, text)
        if not check:
            write_text(path, drawn)
        elif drawn != text:
            raise SystemExit(
                f"{document} tells other numbers than bench/results: run python bench/figures.py."
            )
    if not check:
        write_png(ROOT / "docs" / "demo.png", sheet())


if __name__ == "__main__":
    main()
