"""Text files that are whole or not there at all."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from blemish.errors import OutputError

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays one, and what it leads to is written
    part = target.with_name(f".{uuid4().hex}.part")
    data = text.encode(errors="backslashreplace")  # a file name that is no Unicode must not cost the report
    try:
        if path.exists() and not path.is_file():  # a pipe or a device
            path.write_bytes(data)
            return
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): "
            "check that its folder exists, may be written to and has room."
        ) from error
