"""Reads a text that somebody pasted, from a file, a pipe or standard input."""

import sys
from pathlib import Path

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed

_LARGEST_TEXT = 1 << 20


def read_pasted(source: str, what: str, largest: int = _LARGEST_TEXT) -> str:
    """The text.

    Args:
        source: a path, which may be a pipe as in `--from <(nvidia-smi topo -m)`; `-` is standard input.
        what: what to give if it is too long: `the matrix`.
        largest: bytes that it may have.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        if source == "-":
            data = sys.stdin.buffer.read(largest + 1)
            if len(data) > largest:
                raise InputError(f"standard input has more than {largest >> 20} MiB; give {what} alone")
        else:
            data = read_placed(Path(source), largest, pipes=True)
    except (OSError, PlacedFileError) as error:
        why = error.why if isinstance(error, PlacedFileError) else error.strerror
        raise InputError(f"cannot read {source}: {why}") from error
    return data.decode("utf-8", "replace")
