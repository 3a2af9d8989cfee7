"""Other people's lists of images, in whatever form, looked up in a folder of classes."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from blemish.data.lists import BAD_WORDS
from blemish.data.longtail import Tail, train_counts
from blemish.data.samples import Role, Sample, Samples
from blemish.errors import DataError, LayoutError
from blemish.images import IMAGE_SUFFIXES, mask_files

__all__ = ["Entry", "Published", "find_published", "read_published"]

IMAGE = ("image", "filename", "file_name", "file", "path", "file_path", "img_path", "image_path", "img")
CLASS = ("class", "clsname", "cls_name", "class_name", "object", "category", "product")
LABEL = ("label", "anomaly", "is_anomaly")
SPLITS = frozenset({"train", "test", "validation", "ground_truth"})
CLEAN, NOISE = "tailed_files", "noisy_files"
"""TailedCore's keys; the other one is of defective images that are to be learnt from as if they were good."""
PICTURE = re.compile(
    rf'"?(.+?({"|".join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))"?(?=[\s,;]|$)', re.IGNORECASE
)


class Entry(NamedTuple):
    path: str
    within: tuple[str, ...] = ()
    """What else is said of where it lies: the class, or the keys above it."""
    noise: bool = False
    split: str = ""

    @property
    def tests(self) -> bool:
        return "test" in map(str.lower, (self.split, *self.within, *PurePosixPath(self.path).parts))

    @property
    def learns(self) -> bool:
        return "train" in map(str.lower, (self.split, *self.within))

    @property
    def klass(self) -> str:
        parts = PurePosixPath(self.path).parts
        split = next((at for at, part in enumerate(parts) if part.lower() in SPLITS), 0)
        said = [part for part in self.within if part not in SPLITS]
        return parts[split - 1] if split else (*said, parts[0])[0]

    def places(self) -> Iterator[str]:
        """Where it may be below the folder of classes: the path as it is given, or any end of it."""
        full = [self.path, "/".join((*self.within, self.path))]
        if "test" not in self.within:
            full += [f"{part}/train/good/{self.path}" for part in self.within]
        for path in full:
            parts = PurePosixPath(path).parts
            yield from ("/".join(parts[at:]) for at in range(len(parts)))


@dataclass(frozen=True, slots=True)
class Published:
    samples: Samples
    entries: int
    missing: tuple[Entry, ...]
    noise: tuple[Entry, ...]
    """Left out, for only good images are learnt from."""
    untrained: tuple[str, ...]
    """Classes left out, for none of their training images was found."""
    unnamed: tuple[str, ...]
    """Classes left out, for no entry is of them."""
    fewer_tests: Mapping[str, tuple[int, int]]
    """Of classes with test images that are not named: how many are, and how many there are."""

    @property
    def missing_by_class(self) -> dict[str, int]:
        return dict(Counter(entry.klass for entry in self.missing).most_common())


def read_published(path: Path) -> list[Entry]:
    """JSON of any nesting, JSON lines, CSV with or without a header, or text with a path a line."""
    try:
        text = path.read_text("utf-8-sig")
        match path.suffix.lower() if text.strip() else "":
            case ".json":
                content = json.loads(text)
            case ".jsonl":
                content = [json.loads(line) for line in text.split("\n") if line.strip()]
            case ".csv" | ".tsv":
                content = _rows(text)
            case _:
                content = [found[1] for line in text.splitlines() if (found := PICTURE.match(line.strip()))]
    except OSError as error:
        raise LayoutError(f"{path} cannot be read ({error.strerror}): check its spelling.") from error
    except (ValueError, csv.Error) as error:
        raise LayoutError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({error}): save it again in UTF-8."
        ) from error
    if entries := list(dict.fromkeys(_entries(content))):
        return entries
    raise LayoutError(
        f"{path} names no pictures: give a JSON, JSONL, CSV or text list of paths that end in "
        f"{', '.join(sorted(IMAGE_SUFFIXES))}."
    )


def _rows(text: str) -> list[Any]:
    header = text.partition("\n")[0]
    rows = list(
        csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    )
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if set(IMAGE).isdisjoint(names):
        return rows
    return [dict(zip(names, row, strict=False)) for row in rows[1:]]


def _entries(node: object, keys: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Each picture that a tree of lists and tables names."""
    within = tuple(key for key in keys if key not in (CLEAN, NOISE))
    if isinstance(node, str):
        if PICTURE.fullmatch(node.strip()):
            yield Entry(_clean(node), within, NOISE in keys)
    elif isinstance(node, list):
        for each in node:
            yield from _entries(each, keys)
    elif isinstance(node, dict):
        path = _cell(node, IMAGE)
        if not path:
            for key, each in node.items():
                yield from _entries(each, (*keys, str(key)))
        elif PICTURE.fullmatch(path):
            split = _cell(node, ("split",)).lower() or (
                "train" if "train" in _clean(path).lower().split("/") else ""
            )
            bad = _cell(node, LABEL).lower() in BAD_WORDS | {"1", "1.0", "true"}
            klass = _cell(node, CLASS)
            noise = NOISE in keys or (bad and split == "train")
            yield Entry(_clean(path), (*within, klass) if klass else within, noise, split)


def _cell(row: dict[Any, Any], names: Sequence[str]) -> str:
    return next(
        (str(row[name]).strip() for name in names if isinstance(row.get(name), str | int | float)), ""
    )


def _clean(path: str) -> str:
    return PurePosixPath(path.strip().strip('"').replace("\\", "/")).as_posix()


def find_published(samples: Samples, root: Path, path: Path) -> Published:
    """Those of the samples below `root` that the list names; all test images of a class if it names none."""
    entries = read_published(path)
    top = f"{samples.name}/" if samples.classes == ("",) else ""
    known: dict[str, Sample | None] = {top + sample.name: sample for sample in samples}
    known |= {
        top + Path(os.path.relpath(file, root)).as_posix(): None
        for sample in samples
        if sample.mask
        for file in mask_files(sample.mask)
    }
    named: dict[str, Sample] = {}
    missing, noise = [], [entry for entry in entries if entry.noise]
    for entry in entries:
        if (place := next((each for each in entry.places() if each in known), None)) is None:
            missing.append(entry)
        elif (sample := known[place]) is not None and sample.bad and entry.learns:
            noise.append(entry)
        elif sample is not None and not entry.noise:
            # Where only folders say what is good, some of it was set aside for testing.
            learns = sample.role is Role.TEST and not sample.bad and not entry.tests
            named[sample.name] = replace(sample, role=Role.TRAIN) if learns else sample
    learnt = {sample.klass for sample in named.values() if sample.role is Role.TRAIN}
    if not learnt:
        raise DataError(
            f"None of the {len(entries)} entries of {path}, such as {entries[0].path}, is a training image "
            f"of {root}, which holds {samples[0].name} and others: give the folder where the paths begin."
        )
    tested = {sample.klass for sample in named.values() if sample.role is Role.TEST}
    items = [
        named.get(sample.name, sample)
        for sample in samples
        if sample.klass in learnt
        and (sample.name in named or (sample.role is Role.TEST and sample.klass not in tested))
    ]
    found = samples.with_items(items)
    tests, testing = (Counter(s.klass for s in each.role(Role.TEST)) for each in (samples, found))
    return Published(
        samples=replace(found, tail=Tail(path.stem, None, (), train_counts(found))),
        entries=len(entries),
        missing=tuple(missing),
        noise=tuple(dict.fromkeys(noise)),
        untrained=tuple(sorted({sample.klass for sample in named.values()} - learnt)),
        unnamed=tuple(sorted({*samples.classes} - {sample.klass for sample in named.values()})),
        fewer_tests={
            klass: (testing[klass], tests[klass])
            for klass in sorted(tested & learnt)
            if testing[klass] < tests[klass]
        },
    )
