"""Reads /proc, /sys and the like of this host, or of a captured tree, and keeps what could not be read."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.confined import open_within
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import one_line
from runner.node.findings import NotRead

_LARGEST_FILE = 1 << 20
# In a captured tree: what could not be read when it was captured, and why.
REFUSED = "not_read.json"
_MOST_NAMES = 20_000
_NO_NUMBER = 2**64


@dataclass(frozen=True)
class FileSystemSpace:
    """Size and free space of a file system, in bytes."""

    size: int
    free: int


class HostTree:
    """The files of a host, by their absolute paths.

    Attributes:
        root: the folder that holds a captured tree; None for this host.
        pid: the process to judge; None for this shell.
        not_read: files that exist and could not be read.
    """

    def __init__(self, root: Path | None = None, pid: int | None = None) -> None:
        self.root, self.pid = root, pid
        self.not_read: list[NotRead] = []
        self._refusals = {} if root is None else _refusals(root)

    @property
    def process(self) -> str:
        """The folder of the judged process: `/proc/self`, or `/proc/4711`."""
        return f"/proc/{'self' if self.pid is None else self.pid}"

    def data(self, path: str) -> bytes | None:
        """The content of a file; None if it is not there or cannot be read.

        Files larger than 1 MiB are refused. Links of a captured tree stay within it.
        """
        if path in self._refusals:
            self._refused(path, self._refusals[path])
            return None
        try:
            return read_placed(Path(path), _LARGEST_FILE, root=self.root)
        except PlacedFileError as error:
            if error.kind != "missing":
                self._refused(path, error.why)
        except OSError as error:
            # Files of /sys refuse some readings with codes of their own, such as ENODEV and EINVAL.
            self._refused(path, error.strerror or str(error))
        return None

    def text(self, path: str) -> str | None:
        """The content of a file as text, without the newline at its end; None as for `data`."""
        data = self.data(path)
        return None if data is None else data.decode(errors="replace").rstrip("\n")

    def number(self, path: str) -> int | None:
        """The whole number in a file; None if there is none, or one that no counter of the kernel holds."""
        try:
            found = int(self.text(path) or "")
        except ValueError:
            return None
        return found if abs(found) < _NO_NUMBER else None

    def names(self, folder: str) -> Sequence[str]:
        """The sorted names in a folder; empty if it is not there or cannot be read."""
        try:
            with self._opened(folder) as place:
                found = sorted(one.name for one in place.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._refused(folder, error.strerror or str(error))
            return ()
        return found[:_MOST_NAMES]

    def link(self, path: str) -> str | None:
        """Where a symbolic link points to, as it is written; None if it is not one."""
        parent, _, name = path.rpartition("/")
        try:
            with self._opened(parent or "/") as place:
                return str((place / name).readlink())
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        try:
            with self._opened(path):
                return True
        except OSError:
            return False

    def space(self, path: str) -> FileSystemSpace | None:
        """The file system that holds a path of this host; None if it cannot be read, and for a captured tree."""
        if self.root is not None:
            return None
        try:
            found = os.statvfs(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.not_read.append(NotRead(path, error.strerror or str(error)))
            return None
        return FileSystemSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def _refused(self, path: str, why: str) -> None:
        self.not_read.append(NotRead(path, why))

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[Path]:
        """A path to the file or folder; links of a captured tree stay within it."""
        if self.root is None:
            if not Path(path).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            yield Path(path)
            return
        found = open_within(self.root, Path(path))
        try:
            yield Path(f"/proc/self/fd/{found}")
        finally:
            os.close(found)


def _refusals(root: Path) -> dict[str, str]:
    """What a captured tree says could not be read; a file that is not like that says nothing."""
    try:
        found = json.loads(read_placed(root / REFUSED, _LARGEST_FILE, links=False))
    except (PlacedFileError, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {path: one_line(why) for path, why in found.items() if isinstance(why, str)}
