import time
from pathlib import Path
from typing import Annotated

import typer

from blemish import api, data
from blemish.cli._places import check_file, make_folder
from blemish.cli._terminal import JsonFile, table, watching, write_json
from blemish.cli.eval import COLUMNS
from blemish.cli.inspect import find, judge
from blemish.data import demo as drawn
from blemish.evaluate import evaluate, write_report


def demo(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures and the fits.")] = 0,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Use the pictures that an earlier demo drew in DIR, or you changed."),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Draw photographs of three products, and fit, inspect, evaluate and report on each. Offline, minutes."""
    begin = time.perf_counter()
    make_folder(out)
    check_file(json_file)
    pictures = out / "data"
    found = {}
    with watching() as watch:
        for product in watch.progress(drawn.PRODUCTS, "products", len(drawn.PRODUCTS)):
            if not (keep and (pictures / product).is_dir()):
                drawn.write(pictures, seed=seed, products=[product])
            samples = data.read(pictures / product)
            model = api.fit(samples, seed=seed, progress=watch.progress, say=watch.say)
            path = out / f"{product}.blemish"
            model.save(path)
            model = api.load(path)
            found[product] = evaluate(model, samples, progress=watch.progress)
            write_report(found[product], model, samples, out / f"{product}.html")
            make_folder(out / product)
            parts = find([pictures / product / "test"], None)
            judge(model, parts, out / product, heatmaps=True, progress=watch.progress)
    write_json(json_file, {"schema": 1, **{name: each.to_json() for name, each in found.items()}})
    if json_file == Path("-"):
        return
    rows = [[name, *(each.mean[key] for key in COLUMNS)] for name, each in found.items()]
    table(["product", *COLUMNS.values()], rows)
    first = next(iter(found))
    print(f"{time.perf_counter() - begin:.0f} s. Look at:")
    table(
        ["file", "what it is"],
        [
            [out / f"{first}.html", "a report: open it in a browser"],
            [out / first, "the test pictures under their heat maps, and results.jsonl"],
            [out / f"{first}.blemish", "a model: try `blemish info` and `blemish inspect` on it"],
            [pictures / first, "the pictures: train/good, test and ground_truth"],
        ],
    )
