"""Reads a small text file that somebody else wrote, or says why not. Never waits and never raises."""

import os
from dataclasses import dataclass
from pathlib import Path

from runner.placed import PlacedFileError, placed_file

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file's text; None where it is missing, no regular file (`special`: and no folder), or closed to this user."""

    text: str | None = None
    why: str | None = None
    missing: bool = False
    special: bool = False


def read_file(path: Path, root: Path | None = None) -> Content:
    """What a file holds, as far as it is a file and of a sensible size.

    Args:
        path: the file.
        root: the file system that the path belongs to, where that is not this process's.
    """
    try:
        with placed_file(path, root=root) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MOST_BYTES + 1)
    except PlacedFileError as error:
        return Content(why=error.why, missing=error.kind == "missing", special=error.kind == "special")
    why = f"only its first {_MOST_BYTES >> 20} MiB was read" if len(data) > _MOST_BYTES else None
    return Content(data[:_MOST_BYTES].decode(errors="replace"), why)
