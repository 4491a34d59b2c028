"""Reads a small text file that somebody else wrote, or says why not. Never waits and never raises."""

import stat
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file's text; None where it is missing, no regular file (`special`: and no folder), or closed to this user."""

    text: str | None = None
    why: str | None = None
    missing: bool = False
    special: bool = False


def read_file(path: Path) -> Content:
    """What a file holds, as far as it is a file and of a sensible size."""
    try:
        mode = path.stat().st_mode
        # Opening a pipe waits for whoever writes to it.
        if not stat.S_ISREG(mode):
            return Content(why="is not a regular file", special=not stat.S_ISDIR(mode))
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        return Content(why=error.strerror, missing=True)
    except (OSError, ValueError) as error:
        return Content(why=error.strerror if isinstance(error, OSError) else str(error))
    why = f"only its first {_MOST_BYTES >> 20} MiB was read" if len(data) > _MOST_BYTES else None
    return Content(data[:_MOST_BYTES].decode(errors="replace"), why)
