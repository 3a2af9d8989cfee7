from pathlib import Path
from typing import Annotated

import typer

from blemish import data
from blemish.cli._places import check_file
from blemish.cli._terminal import JsonFile, describe, table, watching, write_json
from blemish.cli.fit import warn_of_learnt
from blemish.data import Role
from blemish.errors import OutputError
from blemish.evaluate import GROUPS, Evaluation, evaluate, write_report
from blemish.model import Inspector

COLUMNS = {
    "n_test": "images",
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro30": "AUPRO",
    "false_reject_rate": "false rejects",
    "miss_rate": "misses",
    "ms_p50": "ms",
}


def eval(  # noqa: A001  (the verb)
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="A .blemish file.")],
    source: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder or a list with test images, good and bad.")
    ],
    *,
    klass: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Of several products in DATA, measure this one alone."),
    ] = None,
    json_file: JsonFile = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report as one HTML page.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="How DATA is arranged, if that is not recognised.")
    ] = None,
) -> None:
    """Measure a model on test images: one line a class, and the mean.

    Rates are computed from raw scores; the threshold is the model's own and is never tuned on test images.
    """
    check_file(json_file, model_file, source)
    if report == Path("-"):
        raise OutputError("A report is a page of megabytes: give --report the name of a file.")
    check_file(report, model_file, source, json_file)
    model = Inspector.load(model_file)
    samples = data.read(source, layout=layout)
    if klass is not None:
        samples = samples.only(klass)
    data.check_masks(samples)
    known = set(model.manifest.get("known", ()))
    test = samples.role(Role.TEST)
    warn_of_learnt([sample.name for sample in test if data.fingerprint(sample) in known])
    with watching() as watch:
        evaluation = evaluate(model, samples, progress=watch.progress)
    write_json(json_file, evaluation.to_json())
    if json_file != Path("-"):
        show(evaluation, model)
    if report is not None:
        write_report(evaluation, model, samples, report)


def show(evaluation: Evaluation, model: Inspector) -> None:
    print(f"{describe(model)}\n{model.statement}\n")
    rows = [[record["class"] or record["dataset"], record] for record in evaluation.records]
    rows += [[GROUPS[name], record] for name, record in evaluation.groups.items()]
    if len(rows) > 1:
        rows.append(["mean", evaluation.mean])
    if evaluation.gap:
        rows.append(["High − Low", evaluation.gap])
    cells = [[name, *(record.get(key) for key in COLUMNS)] for name, record in rows]
    table(["class", *COLUMNS.values()], cells)
