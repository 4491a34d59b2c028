"""Reads a small text file of unknown origin, or returns why it cannot. Never blocks and never raises."""

import os
from dataclasses import dataclass
from pathlib import Path

from runner.base.placed import PlacedFileError, placed_file

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file's text; None if it is missing, not a regular file (`special`: nor a folder), or not readable."""

    text: str | None = None
    why: str | None = None
    missing: bool = False
    special: bool = False


def read_file(path: Path, root: Path | None = None) -> Content:
    """The content of a regular file, up to a maximum size.

    Args:
        path: the file.
        root: the root file system of the path, if it differs from this process's.
    """
    try:
        with placed_file(path, root=root) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MOST_BYTES + 1)
    except PlacedFileError as error:
        return Content(why=error.why, missing=error.kind == "missing", special=error.kind == "special")
    why = f"only its first {_MOST_BYTES >> 20} MiB was read" if len(data) > _MOST_BYTES else None
    return Content(data[:_MOST_BYTES].decode(errors="replace"), why)
