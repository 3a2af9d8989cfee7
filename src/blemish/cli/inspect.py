import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, Protocol

import typer

from blemish import images
from blemish.cli._places import make_folder, whole_file
from blemish.cli._terminal import Progress, watching
from blemish.data.folders import contents, pictures
from blemish.errors import DataError, UsageError
from blemish.model import Inspector, Result, Verdict
from blemish.model.products import one_of

FIELDS = (
    "image",
    "score",
    "verdict",
    "threshold",
    "review_threshold",
    "p_value",
    "regions",
    "nearest",
    "class",
    "class_confidence",
    "notes",
    "ms",
    "model",
    "error",
    "heatmap",
)


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


class Picture(NamedTuple):
    path: Path
    name: str
    """Below the folder that was given."""


class Write(Protocol):
    def __call__(self, record: dict[str, Any]) -> None: ...


def inspect(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="A .blemish file.")],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Pictures, and folders of them at any depth.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write results.jsonl or results.csv into DIR.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Of the records.")] = Format.JSONL,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Also write each picture under its heat map into DIR.")
    ] = False,
    klass: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Which product it is; else the model finds out."),
    ] = None,
    fail_on_reject: Annotated[
        bool, typer.Option("--fail-on-reject", help="Exit with 1 if a picture is rejected.")
    ] = False,
) -> None:
    """Judge pictures: one record a picture, on standard output or in DIR.

    A picture that cannot be read becomes a record with the field error; the others are inspected, and the
    exit code is 3.
    """
    if heatmaps and out is None:
        raise UsageError("--heatmaps needs a folder to write to: add --out DIR.")
    model = Inspector.load(model_file)
    one_of(model.classes, klass)  # refused before anything is written
    if out is not None:
        make_folder(out)
    found = find(paths, out)
    with watching(shown=out is not None or not sys.stdout.isatty()) as watch:
        seen = judge(model, found, out, form=form, heatmaps=heatmaps, klass=klass, progress=watch.progress)
    if out is not None:
        print(f"{out / f'results.{form}'}: {', '.join(f'{seen[key]} {key}' for key in (*Verdict, 'error'))}")
    if failed := seen["error"]:
        print(f"{failed} of {len(found)} pictures could not be inspected: see field error.", file=sys.stderr)
        raise typer.Exit(DataError.exit_code)
    if fail_on_reject and seen[Verdict.REJECT]:
        raise typer.Exit(1)


def judge(
    model: Inspector,
    found: Sequence[Picture],
    out: Path | None,
    *,
    form: Format = Format.JSONL,
    heatmaps: bool = False,
    klass: str | None = None,
    progress: Progress,
) -> Counter[str]:
    """How many pictures had each verdict, or an error; their records go to standard output or `out`."""
    seen: Counter[str] = Counter()
    if heatmaps and out is not None:
        given = {picture.path.resolve() for picture in found}
        if taken := [name for _, name in named(found) if (out / name).resolve() in given]:
            raise UsageError(
                f"The heat map {taken[0]} would replace a picture to inspect: choose another --out."
            )
    with records(out, form, heatmaps) as write:
        for picture, name in progress(named(found), "inspecting", len(found)):
            try:
                result = model.inspect(picture.path, klass=klass)
            except DataError as error:
                seen["error"] += 1
                write({"image": str(picture.path), "error": str(error)})
                continue
            seen[result.verdict] += 1
            record = result.record()
            if heatmaps and out is not None:
                record["heatmap"] = write_heatmap(model, picture.path, result, out, name)
            write(record)
    return seen


def find(paths: Sequence[Path], out: Path | None) -> list[Picture]:
    """In the order given. What an earlier run wrote below `out` is no picture of a part."""
    written = None if out is None else out.resolve()
    found: dict[Path, Picture] = {}
    for path in paths:
        if not path.is_dir():
            found.setdefault(path, Picture(path, path.name))
            continue
        names = [name for name in pictures(path) if written is None or not lies_in(path / name, written)]
        if not names and pictures(path):
            raise DataError(
                f"All pictures in {path} lie in --out {out}, as results would: choose another one."
            )
        if not names:
            raise DataError(f"There are no pictures in {path} ({contents(path)}): give another folder.")
        for name in names:
            found.setdefault(path / name, Picture(path / name, name))
    return list(found.values())


def lies_in(path: Path, folder: Path) -> bool:
    return folder in path.resolve().parents


def named(found: Sequence[Picture]) -> Iterator[tuple[Picture, str]]:
    """With the name of its heat map: `cut/001_heatmap.png`, or `cut/001-2_heatmap.png` if that is taken."""
    taken: set[str] = set()
    for picture in found:
        stem = picture.name.rpartition(".")[0] or picture.name
        number, name = 1, f"{stem}_heatmap.png"
        while name.casefold() in taken:  # some file systems do not tell a.png from A.png
            number += 1
            name = f"{stem}-{number}_heatmap.png"
        taken.add(name.casefold())
        yield picture, name


def write_heatmap(model: Inspector, path: Path, result: Result, out: Path, name: str) -> str:
    target = out / name
    make_folder(target.parent)
    images.write_png(target, model.overlay(images.read(path), result))
    return name


@contextmanager
def records(out: Path | None, form: Format, heatmaps: bool) -> Iterator[Write]:
    if out is None:
        yield writer(sys.stdout, form, heatmaps)
    else:
        with whole_file(out / f"results.{form}") as file:
            yield writer(file, form, heatmaps)


def writer(file: IO[str], form: Format, heatmaps: bool) -> Write:
    if form is Format.JSONL:
        # ASCII, so that no terminal, log or locale can spoil a line
        return lambda record: print(json.dumps(record), file=file, flush=file is sys.stdout)
    columns = [name for name in FIELDS if name != "heatmap" or heatmaps]
    rows = csv.DictWriter(file, columns, lineterminator="\n")
    rows.writeheader()

    def write(record: dict[str, Any]) -> None:
        rows.writerow({key: as_text(value) for key, value in record.items()})
        if file is sys.stdout:
            file.flush()

    return write


def as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value
