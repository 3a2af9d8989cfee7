"""Lists of images, as CSV with a header, JSON lines or a JSON array: `image,label,split,mask,class`.

A JSON object is a list with its images under `images`, the folder that their paths begin at under `root`, and
beside them what `blemish split` says of its long tail.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from blemish.data.longtail import Tail, by_size
from blemish.data.samples import Role, Sample, Samples
from blemish.errors import DataError, LayoutError, MaskError, UsageError

__all__ = ["BAD_WORDS", "GOOD_WORDS", "LIST_SUFFIXES", "list_text", "read_list", "read_tail", "root_of"]

GOOD_WORDS = frozenset({"good", "ok", "normal"})
BAD_WORDS = frozenset({"bad", "ng", "ko", "abnormal", "anomaly", "anomalous", "defect", "defective"})
COLUMNS = ("image", "label", "split", "mask", "class")
SPLITS = {
    "train": Role.TRAIN,
    "calibration": Role.CALIBRATION,
    "val": Role.CALIBRATION,
    "validation": Role.CALIBRATION,
    "test": Role.TEST,
}
NO_KIND = re.compile(r"[-+.\d]*|true|false|yes|no|none|null|nan|unknown")
Rows = Iterator[tuple[str, Any]]


def _csv(text: str) -> Rows:
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    yield from ((f"line {rows.line_num}", row) for row in rows)


def _json_lines(text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split at U+2028 within a string
        if line.strip():
            yield f"line {number}", json.loads(line)


def _json(text: str) -> Rows:
    content = json.loads(text)
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError("it holds no array")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))


PARSERS: dict[str, Callable[[str], Rows]] = {".csv": _csv, ".jsonl": _json_lines, ".json": _json}
LIST_SUFFIXES = tuple(PARSERS)


def read_list(path: Path) -> list[Sample] | None:
    parse = PARSERS.get(path.suffix.lower())
    if parse is None or not path.is_file():
        return None
    root = root_of(path)
    try:
        text = path.read_text("utf-8-sig")
        rows = list(parse(text)) if text.strip() else []
    except (ValueError, csv.Error) as error:  # ValueError is also bad UTF-8 and bad JSON
        raise LayoutError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({error}): save it again in UTF-8."
        ) from error
    samples = [_sample(root, f"{path}, {place}", row) for place, row in rows]
    missing_images = [sample.name for sample in samples if sample.path and not sample.path.is_file()]
    if missing_images:
        raise DataError(_missing(path, root, "image", missing_images))
    missing_masks = [str(sample.mask) for sample in samples if not _has_its_mask(sample)]
    if missing_masks:
        raise MaskError(_missing(path, root, "mask", missing_masks))
    if not samples:
        raise LayoutError(f"{path} lists no images: add a row for each.")
    nameless = [sample.name for sample in samples if not sample.klass]
    if nameless and len(nameless) < len(samples):
        raise LayoutError(
            f"{path} has no class for {len(nameless)} of {len(samples)} images, such as {nameless[0]}: "
            "name the class of each, or of none."
        )
    return samples


def _has_its_mask(sample: Sample) -> bool:
    """A folder of masks has the name of its picture, or one for all would mark each."""
    assert sample.path is not None
    mask = sample.mask
    return mask is None or mask.is_file() or (mask.is_dir() and mask.name == sample.path.stem)


def root_of(data: Path) -> Path:
    """Where the names of the samples begin: a folder itself, or what a list says, or the list's folder."""
    return data if data.is_dir() else data.parent / str(_head(data).get("root", ""))


def read_tail(path: Path) -> Tail | None:
    """What a list made by `blemish split` says of its long tail, if its images are still those."""
    head = _head(path)
    if "sha256" not in head:
        return None
    remedy = "make it again with `blemish split`, or delete its sha256 and it is read as any other list."
    if head["sha256"] != _digest(head["images"]):
        raise LayoutError(f"{path} was changed after it was made: {remedy}")
    trained = Counter(entry["class"] for entry in head["images"] if entry["split"] == Role.TRAIN)
    order = tuple(head.get("order", ()))
    if order and sorted(order) != sorted(trained):
        raise LayoutError(f"{path} has an order that is not of its classes: {remedy}")
    counts = {klass: trained[klass] for klass in order or by_size(trained)}
    return Tail(str(head.get("kind", "")), head.get("seed"), order, counts, head["sha256"])


def _head(path: Path) -> dict[str, Any]:
    """A list that is a JSON object as it stands; nothing of others."""
    if path.suffix.lower() != ".json":
        return {}
    with suppress(ValueError):  # told where the rows are read
        content = json.loads(path.read_text("utf-8-sig"))
        if isinstance(content, dict) and "images" in content:
            return content
        if isinstance(content, dict) and any(isinstance(value, list | dict) for value in content.values()):
            raise LayoutError(
                f"{path} is a list as another program writes them: make it one of ours with "
                f"`blemish split DATA --list {path.name} --out FILE`."
            )
    return {}


def _missing(path: Path, root: Path, what: str, names: list[str]) -> str:
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    remedy = f"write paths relative to {root.resolve()}"
    if root != path.parent:
        remedy = f"set its root, now {root}, to the folder that holds them"
    told = f"1 {what} that does" if len(names) == 1 else f"{len(names)} {what}s that do"
    return f"{path} names {told} not exist ({some}): {remedy}."


def _sample(root: Path, place: str, row: object) -> Sample:
    fields = _fields(place, row)
    bad, kind = _label(place, fields["label"])
    split = fields["split"].lower()
    if split and split not in SPLITS:
        raise LayoutError(f"{place} has the split {fields['split']!r}: write one of {', '.join(SPLITS)}.")
    return Sample(
        name=Path(fields["image"]).as_posix(),
        role=SPLITS[split] if split else Role.TEST if bad else Role.TRAIN,
        bad=bad,
        kind=kind,
        klass=fields["class"],
        path=root / fields["image"],
        mask=root / fields["mask"] if fields["mask"] else None,
    )


def _fields(place: str, row: object) -> dict[str, str]:
    # csv gives the cells beyond the header the key None
    if not isinstance(row, dict) or None in row:
        raise LayoutError(f"{place} does not fit the columns: quote a name that holds a separator.")
    given = {str(key).strip().lower(): "" if cell is None else str(cell).strip() for key, cell in row.items()}
    # a misspelt "lable" must not turn every image good
    if unknown := [key for key in given if key not in COLUMNS]:
        raise LayoutError(
            f"{place} has a column {unknown[0]!r}: rename it to one of {', '.join(COLUMNS)}, or drop it."
        )
    if not given.get("image"):
        raise LayoutError(f"{place} names no image: fill in its column image.")
    return dict.fromkeys(COLUMNS, "") | given


def _label(place: str, label: str) -> tuple[bool, str]:
    if (meaning := _meaning(label)) is None:
        raise LayoutError(f"{place} has the label {label!r}: write good, bad or a kind of defect.")
    return meaning


def _meaning(label: str) -> tuple[bool, str] | None:
    word = label.lower()
    if word in GOOD_WORDS | {"", "0"}:
        return False, "good"
    if word in BAD_WORDS | {"1"}:
        return True, "bad"
    return None if NO_KIND.fullmatch(word) else (True, label)


def list_text(samples: Samples, root: Path, folder: Path) -> str:
    """A list of samples below `root` that is to stand in `folder`, an image a line, with its long tail."""
    entries = [_entry(sample, root) for sample in samples]
    tail = {} if samples.tail is None else asdict(samples.tail) | {"factor": samples.tail.factor}
    with suppress(ValueError):  # on another drive
        root = Path(os.path.relpath(root.resolve(), folder.resolve()))
    head = {"schema": 1, "root": root.as_posix(), **tail, "sha256": _digest(entries)}
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    return f'{json.dumps(head, indent=1)[:-2]},\n "images": [\n  {lines}\n ]\n}}\n'


def _entry(sample: Sample, root: Path) -> dict[str, str]:
    if sample.path is None:
        raise UsageError(f"{sample.name} is an array, and a list names files: give the pictures as files.")
    # a kind that a list would take for another word
    label = sample.kind if _meaning(sample.kind) == (sample.bad, sample.kind) else ("good", "bad")[sample.bad]
    entry = {"image": sample.name, "label": label, "split": str(sample.role), "class": sample.klass}
    if sample.mask is not None:
        entry["mask"] = Path(os.path.relpath(sample.mask, root)).as_posix()
    return entry


def _digest(entries: object) -> str:
    return sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
