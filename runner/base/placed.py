"""Opens files that others may have created: never blocks on a pipe, never reads without limit.

Anyone who can write to a folder, or set a variable that names a path, decides what is there: a named pipe that blocks
the reader, a device that never ends, a file of 40 GB. Every file that is not this project's own is read through this
module.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from runner.base.confined import open_within
from runner.base.errors import InputError
from runner.base.units import format_bytes

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


def read_placed(
    path: Path, most: int, *, pipes: bool = False, links: bool = True, root: Path | None = None
) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: bytes; a larger file is refused, not cut.
        pipes: also read a pipe or a device, up to `most` bytes. Only for a path that the caller typed: the read waits
            for the writer of the pipe.
        links: follow a symbolic link in the last part of the path.
        root: the file system that an absolute `path` belongs to, such as `/proc/17/root`; links stay within it.

    Raises:
        PlacedFileError: it is missing, not a regular file, too large, or this user has no access.
    """
    with placed_file(path, pipes=pipes, links=links, root=root) as descriptor:
        return _read(path, descriptor, most)


@contextlib.contextmanager
def placed_file(
    path: Path, *, pipes: bool = False, links: bool = True, root: Path | None = None
) -> Iterator[int]:
    """The open file, as a descriptor, for readers that need a part of it; arguments as for `read_placed`.

    Raises:
        PlacedFileError: as for `read_placed`; also for reads within the context.
    """
    try:
        descriptor = _open(path, pipes=pipes, links=links, root=root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise PlacedFileError(path, "no such file", "missing") from error
    except OSError as error:
        # Without links, another program replaced the file between the two checks.
        link = "is a symbolic link" if error.errno == errno.ELOOP and not links else None
        raise PlacedFileError(path, link or error.strerror or str(error), "closed") from error


def read_end(descriptor: int, most: int) -> tuple[bytes, int]:
    """The last bytes of an open regular file, and how many bytes precede them."""
    before = max(0, os.fstat(descriptor).st_size - most)
    return os.pread(descriptor, most, before), before


def _open(path: Path, *, pipes: bool, links: bool, root: Path | None) -> int:
    if "\0" in str(path):
        raise PlacedFileError(path, "is not a path: it contains a NUL byte", "closed")
    if root is not None:
        found = open_within(root, path)
        try:
            return _open_here(path, Path(f"/proc/self/fd/{found}"), pipes=pipes, links=True)
        finally:
            os.close(found)
    return _open_here(path, path, pipes=pipes, links=links)


def _open_here(path: Path, place: Path, *, pipes: bool, links: bool) -> int:
    # Opening a device may already have an effect, so the kind is checked before opening and once more after.
    _demand_kind(path, place.stat(follow_symlinks=links).st_mode, pipes=pipes)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    # Files of /proc can wait for ever too (/proc/kmsg), and are regular ones by their kind.
    waits = pipes and not stat.S_ISREG(place.stat(follow_symlinks=links).st_mode)
    flags |= (0 if waits else os.O_NONBLOCK) | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(place, flags)
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
    name = "a symbolic link" if kind == stat.S_IFLNK else _KINDS.get(kind, "an unknown kind of file")
    raise PlacedFileError(
        path, f"is {name}, not a regular file", "folder" if kind == stat.S_IFDIR else "special"
    )


def _read(path: Path, descriptor: int, most: int) -> bytes:
    # Kernel files report size 0, and a file may grow while it is read: count the bytes that are read.
    found = bytearray()
    while len(found) <= most:
        more = os.read(descriptor, min(_CHUNK_BYTES, most + 1 - len(found)))
        if not more:
            return bytes(found)
        found += more
    raise PlacedFileError(path, f"is larger than {format_bytes(most)}", "large")
