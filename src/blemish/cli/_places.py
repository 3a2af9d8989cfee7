"""Places to write to, tried before the work that would be lost without them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from blemish.errors import OutputError

__all__ = ["check_file", "make_folder", "whole_file"]


def check_file(path: Path | None, *others: Path | str | None) -> None:
    """Its folder must stand and take files, and none of the others, read or written as well, may be the same.
    None and - are other places."""
    if path is None or path == Path("-"):
        return
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file to write.")
    if path.exists() and not path.is_file():  # a pipe or a device
        return
    for other in others:
        if other is not None and Path(other).expanduser().resolve() == path.resolve():
            raise OutputError(f"{path} is read or written as something else, too: choose another name.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): give a file in a folder that exists and may be "
            "written to."
        ) from error


def make_folder(path: Path, option: str = "--out") -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {path} cannot be written to ({error.strerror}): choose another one with {option}."
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name when all of it is written, or never."""
    target = path.resolve()  # a link stays one, and what it leads to is written
    part = target.with_name(f".{uuid4().hex}.part")  # of this run alone: another may write there, too
    try:
        with part.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        part.replace(target)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}): make room or choose another place with --out."
        ) from error
    finally:
        part.unlink(missing_ok=True)
