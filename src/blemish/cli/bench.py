import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer

from blemish import data, images
from blemish.cli._bench_child import FitJob, command_of
from blemish.cli._options import SMALLEST_SIDE, parse_options, registry
from blemish.cli._places import check_file
from blemish.cli._terminal import watching, write_json
from blemish.cli.fit import warn_of_duplicates
from blemish.errors import DataError, UsageError
from blemish.evaluate import bench as benchmark
from blemish.evaluate.writing import write_text

T = TypeVar("T")


def bench(
    sources: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Folders or lists with test images.")
    ],
    *,
    methods: Annotated[str, typer.Option(metavar="A,B,…", help="See `blemish methods`.")] = "reb",
    presets: Annotated[str, typer.Option(metavar="A,B,…", help="Of fast, full and paper.")] = "fast",
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="One model for each.")] = "0",
    backbone: Annotated[str, typer.Option(help="As for `blemish fit`.")] = "lite0",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The backbone's weights: a state dict.")
    ] = None,
    size: Annotated[int, typer.Option(min=SMALLEST_SIDE, help="Working size: a side in pixels.")] = 256,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the methods, or as METHOD.NAME=VALUE of one. May be repeated.",
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="One model for all classes of DATA, not one a class.")
    ] = False,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="How DATA is arranged, if that is not recognised.")
    ] = None,
    json_file: Annotated[
        Path, typer.Option("--json", metavar="FILE", help="Write JSON to FILE; - is standard output.")
    ] = Path("bench.json"),
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table to FILE, as Markdown.")
    ] = None,
) -> None:
    """Compare methods, presets and seeds on data sets: one model for each, in a process of its own.

    What is done stands in FILE.state, so that the same command goes on where an interrupted one was. The exit
    code is 3 if a job failed.
    """
    read = (*sources, weights)
    check_file(json_file, *read)
    check_file(markdown, *read, json_file)
    numbers = listed(seeds, int)
    known = registry()
    fits = [
        (method, preset, parse_options(settings or [], method))
        for method in listed(methods, str)
        for preset in listed(presets, str)
    ]
    if unused := [item for item in settings or [] if not any(concerns(item, method) for method, *_ in fits)]:
        raise UsageError(f"--set {unused[0]} is for a method that is not among --methods {methods}.")
    for method, preset, options in fits:
        known.create(method, preset, options)
    looks = {source: looked_at(source, layout, weights) for source in dict.fromkeys(sources)}
    jobs = [
        FitJob(
            data=source,
            klass=klass,
            method=method,
            preset=preset,
            seed=seed,
            backbone=backbone,
            weights=None if weights is None else str(weights),
            size=size,
            layout=layout,
            content=look.content,
            options=options,
        )
        for source, look in looks.items()
        for klass in ([None] if together else look.classes)
        for method, preset, options in fits
        for seed in numbers
    ]
    with ExitStack() as stack:
        out = json_file
        if json_file == Path("-"):
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bench.json"
        with watching() as watch:
            tails = {source: look.tail for source, look in looks.items()}
            result = benchmark.run(jobs, out, command_of, tails=tails, progress=watch.progress)
    table = benchmark.markdown(result)
    if markdown is not None:
        write_text(markdown, table)
    if json_file == Path("-"):
        write_json(json_file, result)
    else:
        print(table, end="")
    if failed := len(result["failed"]):
        print(f"{failed} of {len(jobs)} jobs failed; the same command tries them again.", file=sys.stderr)
        raise typer.Exit(DataError.exit_code)


def listed(text: str, kind: Callable[[str], T]) -> Sequence[T]:
    try:
        found = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of whole numbers: write them as 0,1,2.") from error
    if not found:
        raise UsageError("A list is empty: name at least one method, preset and seed.")
    return list(dict.fromkeys(found))


def concerns(item: str, method: str) -> bool:
    owner = item.partition("=")[0].rpartition(".")[0]
    return owner in ("", method)


class Look(NamedTuple):
    classes: Sequence[str]
    tail: Mapping[str, Sequence[str]]
    """The classes of head and tail, if DATA is a long-tailed list."""
    content: str
    """A digest of all that is learnt from and measured on."""


def looked_at(source: str, layout: str | None, weights: Path | None) -> Look:
    samples = data.read(source, layout=layout)
    warn_of_duplicates(samples)
    seen = blake2b(b"" if weights is None else weights.read_bytes(), digest_size=8)
    for sample in sorted(samples, key=attrgetter("name")):
        files = [] if sample.mask is None else images.mask_files(sample.mask)
        mask = "".join(blake2b(images.read_bytes(file)).hexdigest() for file in files)
        told = sample.name, sample.role, sample.klass, sample.kind, sample.bad, data.fingerprint(sample), mask
        seen.update(repr(told).encode(errors="surrogateescape"))
    return Look(samples.classes, {} if samples.tail is None else samples.tail.parts, seen.hexdigest())
