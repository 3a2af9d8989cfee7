from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from blemish import data
from blemish.cli._places import check_file
from blemish.cli._terminal import table, warn
from blemish.data import Role, Samples
from blemish.data.published import Published, find_published
from blemish.errors import OutputError, UsageError
from blemish.evaluate.writing import write_text

SHOWN = 3


def split(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A folder of classes, or a list of several.")],
    *,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The list to write, a .json, that fit and eval take as DATA.")
    ],
    kind: Annotated[
        str | None,
        typer.Option("--long-tail", metavar="KIND", help="exp100, step100 or of another factor, or pareto."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE", help="Keep what a published list names: JSON, JSONL, CSV, text."
        ),
    ] = None,
    order: Annotated[
        str,
        typer.Option(metavar="A,B,…", help="The classes from head to tail, or size, or random."),
    ] = "size",
    seed: Annotated[int, typer.Option(min=0, help="Of which images are kept, and of a random order.")] = 0,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="How DATA is arranged, if that is not recognised.")
    ] = None,
) -> None:
    """Make a list of several classes whose training images are few in some; test images stay.

    Which images are kept depends on the seed and on their names alone.
    """
    if (kind is None) == (published is None):
        raise UsageError(
            "Give either --long-tail KIND, to make a split, or --list FILE, to use a published one."
        )
    if published is not None and (order != "size" or seed):
        raise UsageError("A published list has its own order and draw: leave --order and --seed out.")
    if out.suffix != ".json":
        raise OutputError(f"{out} is no name for such a list: let it end in .json.")
    check_file(out, source, published)
    samples = data.read(source, layout=layout)
    root = data.root_of(Path(source).expanduser())
    if published is not None:
        found = find_published(samples, root, published)
        tell_what_is_missing(found, published, root)
        chosen = found.samples
    else:
        chosen = data.long_tail(samples, str(kind), seed=seed, order=order)
        if aside := len(samples.role(Role.CALIBRATION)):
            warn(f"Left out: {aside} images set aside for calibration; fit holds out some of those kept")
    write_text(out, data.list_text(chosen, root, out.parent))
    show(samples, data.read(out), out)


def tell_what_is_missing(found: Published, published: Path, root: Path) -> None:
    if found.missing:
        warn(
            f"Not in {root}: {len(found.missing)} of {found.entries} entries of {published}, as "
            f"{some(entry.path for entry in found.missing)}: "
            + ", ".join(f"{name} {count}" for name, count in found.missing_by_class.items())
        )
    if found.untrained:
        warn(f"Left out, for none of their training images was found: {', '.join(found.untrained)}")
    if found.unnamed:
        warn(f"Left out, for {published} names none of their images: {', '.join(found.unnamed)}")
    if found.fewer_tests:
        kept = ", ".join(f"{klass} {some} of {all_}" for klass, (some, all_) in found.fewer_tests.items())
        warn(f"Of the test images only those are kept that {published} names: {kept}")
    if found.noise:
        warn(
            f"Left out, for they are defective: {len(found.noise)} of the images that {published} learns "
            f"from, as {some(entry.path for entry in found.noise)}. Figures will not be those of the "
            "published split"
        )


def some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:SHOWN]) + (", …" if len(first) > SHOWN else "")


def show(samples: Samples, chosen: Samples, out: Path) -> None:
    learnt = {sample.name for sample in chosen.role(Role.TRAIN)}
    tail = chosen.tail
    having = Counter(s.klass for s in samples if s.role is Role.TRAIN or s.name in learnt)
    assert tail is not None
    group = {klass: name for name, group in tail.groups._asdict().items() for klass in group}
    table(
        ["class", "training images", "kept", "group"],
        [
            [klass or samples.name, having[klass], kept, group.get(klass, "").capitalize() or None]
            for klass, kept in tail.counts.items()
        ],
    )
    bad = [sample.bad for sample in chosen.role(Role.TEST)]
    print(
        f"{out}: {sum(tail.counts.values())} of {sum(having.values())} training images, "
        f"{bad.count(False)} good and {bad.count(True)} bad test images"
    )
    print(f"The largest class is {tail.factor:.4g} times the smallest")
    print(f"SHA-256 of the entries: {tail.sha256}")
