"""What a person sees: tables on standard output; bars and remarks on standard error."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from blemish.evaluate.evaluation import Progress
from blemish.evaluate.writing import write_text
from blemish.model import Inspector

__all__ = ["JsonFile", "Progress", "Watch", "describe", "table", "warn", "watching", "write_json"]

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write JSON to FILE; - is standard output.")
]


class Watch(NamedTuple):
    progress: Progress
    say: Callable[[str], None]


@contextmanager
def watching(*, shown: bool = True) -> Iterator[Watch]:
    """Bars with the time left, if somebody watches; remarks in any case."""
    if not (shown and sys.stderr.isatty()):
        yield Watch(lambda items, label, total: items, lambda message: print(message, file=sys.stderr))
        return
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
    )
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console, transient=True) as shown_bars:

        def progress(items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
            task = shown_bars.add_task(label, total=total)
            try:
                for item in items:
                    yield item
                    shown_bars.advance(task)
            finally:
                shown_bars.remove_task(task)

        yield Watch(progress, console.print)


def warn(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def describe(model: Inspector) -> str:
    told, fmt = model.manifest, model.format
    tier = told.get("facts", {}).get("tier_in_words")
    alone = model.classes[0] if len(model.classes) == 1 else ""
    return (
        f"{told['method']}, preset {told['preset']}, backbone {told['backbone']}"
        f"{f' ({tier})' if tier else ''}, of {told['dataset']}{f', {alone} alone' if alone else ''}: "
        f"{told['n_train']} images to learn from, {told['n_calibration']} to calibrate with, {fmt.dtype} × "
        f"{fmt.channels} at {model.size[0]}×{model.size[1]}"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Numbers to the right; as wide as it needs to be where it is not a terminal that reads it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [["–" if cell is None else cell for cell in row] for row in rows]
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title, column in zip(header, zip(*cells, strict=True), strict=True):
        numbers = any(isinstance(cell, int | float) for cell in column)
        grid.add_column(title, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 500, markup=False, highlight=False, emoji=False).print(
        grid
    )


def write_json(path: Path | None, content: Any) -> None:
    if path is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
    else:
        write_text(path, text)
