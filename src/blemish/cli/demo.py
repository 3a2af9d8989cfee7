import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blemish import api, data
from blemish.cli._places import check_file, make_folder
from blemish.cli._terminal import JsonFile, table, watching, write_json
from blemish.cli.eval import COLUMNS
from blemish.cli.inspect import find, judge
from blemish.data import Role
from blemish.data import demo as drawn
from blemish.errors import UsageError
from blemish.evaluate import evaluate, write_report


class Pictures(StrEnum):
    PRODUCTS = "products"
    TEXTURES = "textures"


def demo(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures and the fits.")] = 0,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Use the pictures that an earlier demo drew in DIR, or you changed."),
    ] = False,
    only_pictures: Annotated[
        Pictures | None,
        typer.Option(help="Draw pictures in DIR, and stop: products, or textures of ten classes."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Draw photographs of three products, and fit, inspect, evaluate and report on each. Offline, minutes."""
    begin = time.perf_counter()
    make_folder(out)
    check_file(json_file)
    if only_pictures is not None:
        if json_file is not None:
            raise UsageError(
                "--only-pictures measures nothing that --json could write: leave one of them out."
            )
        draw_pictures(only_pictures, out, seed=seed, keep=keep)
        return
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


def draw_pictures(which: Pictures, out: Path, *, seed: int, keep: bool) -> None:
    """Products where the demo itself looks for them."""
    textures = which is Pictures.TEXTURES
    names = drawn.TEXTURES if textures else drawn.PRODUCTS
    folder = out / ("textures" if textures else "data")
    with watching() as watch:
        for name in watch.progress(names, "drawing", len(names)):
            if keep and (folder / name).is_dir():
                continue
            if textures:
                drawn.write_textures(folder, seed=seed, classes=[name])
            else:
                drawn.write(folder, seed=seed, products=[name])
    samples = data.read(folder)
    rows = []
    for name in samples.classes:
        of_class = samples.klass(name)
        test = of_class.role(Role.TEST)
        bad = sum(sample.bad for sample in test)
        rows.append([folder / name, len(of_class) - len(test), len(test) - bad, bad])
    table(["folder", "to learn from", "good to test", "bad to test"], rows)
