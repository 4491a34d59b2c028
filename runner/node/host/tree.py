"""Reads /proc, /sys and the like of this host, or of a captured tree, and keeps what could not be read."""

from collections.abc import Sequence
from pathlib import Path

from runner.base.placed import PlacedFileError, read_placed
from runner.node.findings import NotRead

_LARGEST_FILE = 1 << 20
_MOST_NAMES = 20_000


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

    @property
    def process(self) -> str:
        """The folder of the judged process: `/proc/self`, or `/proc/4711`."""
        return f"/proc/{'self' if self.pid is None else self.pid}"

    def text(self, path: str) -> str | None:
        """The content of a file, without the newline at its end; None if it is not there or cannot be read.

        Files larger than 1 MiB are refused. Links of a captured tree stay within it.
        """
        try:
            if self.root is None:
                data = read_placed(Path(path), _LARGEST_FILE)
            else:
                data = read_placed(Path(path), _LARGEST_FILE, root=self.root)
        except PlacedFileError as error:
            if error.kind != "missing":
                self.not_read.append(NotRead(path, error.why))
            return None
        except OSError as error:
            # Files of /sys refuse some readings with codes of their own, such as ENODEV and EINVAL.
            self.not_read.append(NotRead(path, error.strerror or str(error)))
            return None
        return data.decode(errors="replace").rstrip("\n")

    def number(self, path: str) -> int | None:
        """The whole number in a file; None if there is none."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def names(self, folder: str) -> Sequence[str]:
        """The sorted names in a folder; empty if it is not there or cannot be read."""
        try:
            found = sorted(one.name for one in self._place(folder).iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            self.not_read.append(NotRead(folder, error.strerror or str(error)))
            return ()
        return found[:_MOST_NAMES]

    def link(self, path: str) -> str | None:
        """Where a symbolic link points to, as it is written; None if it is not one."""
        try:
            return str(self._place(path).readlink())
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        try:
            return self._place(path).exists()
        except OSError:
            return False

    def _place(self, path: str) -> Path:
        return Path(path) if self.root is None else self.root / path.lstrip("/")
