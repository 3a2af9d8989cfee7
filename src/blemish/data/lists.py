"""Lists of images, as CSV with a header, JSON lines or a JSON array: `image,label,split,mask,class`."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blemish.data.samples import Role, Sample
from blemish.errors import DataError, LayoutError, MaskError

__all__ = ["BAD_WORDS", "GOOD_WORDS", "LIST_SUFFIXES", "read_list"]

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


def _csv(text: str) -> Iterator[tuple[str, Any]]:
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    yield from ((f"line {rows.line_num}", row) for row in rows)


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split at U+2028 within a string
        if line.strip():
            yield f"line {number}", json.loads(line)


def _json(text: str) -> Iterator[tuple[str, Any]]:
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("it holds no array")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))


PARSERS: dict[str, Callable[[str], Iterator[tuple[str, Any]]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".json": _json,
}
LIST_SUFFIXES = tuple(PARSERS)


def read_list(path: Path) -> list[Sample] | None:
    parse = PARSERS.get(path.suffix.lower())
    if parse is None or not path.is_file():
        return None
    try:
        rows = list(parse(path.read_text("utf-8-sig")))
    except (ValueError, csv.Error) as error:  # ValueError is also bad UTF-8 and bad JSON
        raise LayoutError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({error}): save it again in UTF-8."
        ) from error
    samples = [_sample(path, f"{path}, {place}", row) for place, row in rows]
    missing_images = [sample.name for sample in samples if sample.path and not sample.path.is_file()]
    if missing_images:
        raise DataError(_missing(path, "images", missing_images))
    missing_masks = [str(sample.mask) for sample in samples if sample.mask and not sample.mask.is_file()]
    if missing_masks:
        raise MaskError(_missing(path, "masks", missing_masks))
    if not samples:
        raise LayoutError(f"{path} lists no images: add a row for each.")
    return samples


def _missing(path: Path, what: str, names: list[str]) -> str:
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return (
        f"{path} names {len(names)} {what} that do not exist ({some}): "
        f"write their paths relative to {path.parent}."
    )


def _sample(path: Path, place: str, row: object) -> Sample:
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
        path=path.parent / fields["image"],
        mask=path.parent / fields["mask"] if fields["mask"] else None,
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
    word = label.lower()
    if word in GOOD_WORDS | {"", "0"}:
        return False, "good"
    if word in BAD_WORDS | {"1"}:
        return True, "bad"
    if NO_KIND.fullmatch(word):
        raise LayoutError(f"{place} has the label {label!r}: write good, bad or a kind of defect.")
    return True, label
