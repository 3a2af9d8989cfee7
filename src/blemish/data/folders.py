"""Listing folders: quickly, in a fixed order, without what operating systems leave behind."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blemish.errors import LayoutError
from blemish.images import IMAGE_SUFFIXES

__all__ = ["contents", "pictures", "stem", "subfolders"]


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db"}


def stem(name: str) -> str:
    """The path of a picture without its suffix."""
    return name.rpartition(".")[0]


@contextmanager
def listing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LayoutError(
            f"{error.filename} cannot be listed ({error.strerror}): make it readable, or move it elsewhere."
        ) from error


def subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with listing(), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _ignored(entry.name) and entry.is_dir())


def pictures(folder: Path) -> list[str]:
    """The pictures below a folder, as sorted POSIX paths; none where there is no such folder.

    A link to a file that is not there counts: whoever reads it is told.
    """
    found: list[str] = []
    suffixes = tuple(IMAGE_SUFFIXES)

    def walk(directory: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        status = Path(directory).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back up
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                if _ignored(entry.name):
                    continue
                if entry.is_dir():
                    walk(entry.path, f"{prefix}{entry.name}/", above | {here})
                elif entry.name.lower().endswith(suffixes) and (
                    entry.is_file() or not Path(entry.path).exists()
                ):
                    found.append(prefix + entry.name)

    if not folder.is_dir():
        return []
    with listing():
        walk(str(folder), "", frozenset())
    return sorted(found)


def contents(folder: Path) -> str:
    """What lies below a folder, in words."""
    names = (name for _, _, names in os.walk(folder) for name in names if not _ignored(name))
    suffixes = Counter(Path(name).suffix.lower() or "(no suffix)" for name in names)
    return ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common(3)) or "no files"
