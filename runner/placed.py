"""Opens files that somebody else may have placed: never waits for a pipe, never reads without end.

Whoever can write to a folder, or set a variable that names a path, decides what stands there: a named pipe that
blocks whoever opens it, a device without an end, a file of 40 GB. Everything that is not this project's own file is
read through here.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Literal

from runner.errors import InputError
from runner.units import format_bytes

Kind = Literal["missing", "folder", "special", "large", "closed"]
_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class PlacedFileError(InputError):
    """A file that cannot be read; the message is `PATH: why`.

    Attributes:
        why: what is wrong, without the path.
        kind: `missing`, `folder`, `special` (a pipe, a device, a socket), `large`, or `closed` (any other error).
    """

    def __init__(self, path: Path, why: str, kind: Kind) -> None:
        self.why, self.kind = why, kind
        super().__init__(f"{path}: {why}")


def read_placed(path: Path, most: int, *, pipes: bool = False, links: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: bytes; a larger file is refused, not cut.
        pipes: take a pipe or a device too, up to `most` bytes. Only for a path that the caller typed: the read waits
            for whoever writes to the pipe.
        links: follow a symbolic link in the last part of the path.

    Raises:
        PlacedFileError: it is missing, no regular file, too large, or closed to this user.
    """
    try:
        descriptor = _open(path, pipes=pipes, links=links)
        try:
            return _read(path, descriptor, most)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PlacedFileError(path, "no such file", "missing") from error
    except (OSError, ValueError) as error:
        raise PlacedFileError(path, _said(error), "closed") from error


def _open(path: Path, *, pipes: bool, links: bool) -> int:
    # Opening a device may already do something, so its kind is asked first; what is opened is asked once more.
    _demand_kind(path, path.stat(follow_symlinks=links).st_mode, pipes=pipes)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    flags |= (0 if pipes else os.O_NONBLOCK) | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        _demand_kind(path, os.fstat(descriptor).st_mode, pipes=pipes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _demand_kind(path: Path, mode: int, *, pipes: bool) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG or (pipes and kind in {stat.S_IFIFO, stat.S_IFCHR}):
        return
    name = "a symbolic link" if kind == stat.S_IFLNK else _KINDS.get(kind, "no regular file")
    raise PlacedFileError(
        path, f"is {name}, not a regular file", "folder" if kind == stat.S_IFDIR else "special"
    )


def _read(path: Path, descriptor: int, most: int) -> bytes:
    # A file of the kernel says that it is empty, and a file may grow while it is read: the bytes decide.
    found = bytearray()
    while len(found) <= most:
        more = os.read(descriptor, min(_CHUNK_BYTES, most + 1 - len(found)))
        if not more:
            return bytes(found)
        found += more
    raise PlacedFileError(path, f"is larger than {format_bytes(most)}", "large")


def _said(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        # Another program took the place between the two looks, or the path goes round in a circle.
        return "is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
    return str(error)
