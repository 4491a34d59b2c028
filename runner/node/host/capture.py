"""Copies what a group reads into a folder, so that `--root` gives the same verdict on another machine.

The reader of the group runs over a tree that keeps everything it is asked for: files, links and lists of names. So a
capture holds what the verdict depends on, and nothing else: of the kernel's command line and of the mounts only a
part. Sizes in /sys are made up, so tar and cp cannot do this.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runner.base.errors import InputError
from runner.node.host.mounts import telling_mounts
from runner.node.host.mountstats import telling_mountstats
from runner.node.host.settings_reading import kernel_parameters
from runner.node.host.tree import REFUSED, HostTree

# What of a file a verdict depends on, where the rest names hosts, addresses, tokens or folders of users.
_TOLD: Mapping[str, Callable[[str], str]] = {
    "/proc/cmdline": kernel_parameters,
    "mountinfo": telling_mounts,
    "mountstats": telling_mountstats,
}
# Absolute links to these places are kept as they are. Others may name private folders, and are left out.
_KEPT = ("/dev/nvidia", "/sys/", "/proc/")


class CapturingTree(HostTree):
    """A host whose files are kept as they are read.

    Attributes:
        into: the folder for the captured tree; it is created.
    """

    def __init__(self, into: Path, pid: int | None = None) -> None:
        """Capture this host.

        Raises:
            InputError: the folder is not empty, or cannot be created.
        """
        super().__init__(None, pid)
        self.into = into
        try:
            into.mkdir(parents=True, exist_ok=True)
            if any(into.iterdir()):
                raise InputError(f"{into} is not empty; name a folder that does not exist yet")
        except OSError as error:
            raise InputError(f"{into}: {error.strerror}; name a folder that can be created") from error

    def data(self, path: str) -> bytes | None:
        """As of a host; the content is kept."""
        found = super().data(path)
        if found is not None:
            self._keep(path, found)
        return found

    def names(self, folder: str) -> Sequence[str]:
        """As of a host; the names are kept, with empty files for what is not read."""
        found = super().names(folder)
        if found:
            self._place(folder).mkdir(parents=True, exist_ok=True)
        for name in found:
            place = self._place(f"{folder}/{name}", last=False)
            if not os.path.lexists(place):
                place.touch()
        return found

    def link(self, path: str) -> str | None:
        """As of a host; the link is kept, if it leads nowhere private."""
        found = super().link(path)
        if found is not None and (not found.startswith("/") or found.startswith(_KEPT)):
            place = self._place(path, last=False)
            _make_room(place)
            place.symlink_to(found)
        return found

    def exists(self, path: str) -> bool:
        """As of a host; kept as a folder or an empty file."""
        found = super().exists(path)
        place = self._place(path)
        if found and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir() if Path(path).is_dir() else place.touch()
        return found

    def finish(self) -> int:
        """Write what could not be read, and take the right to write away; the number of files."""
        refused = {one.what: one.why for one in self.not_read}
        if refused:
            named = {self._of_self(path): why for path, why in refused.items()}
            (self.into / REFUSED).write_text(json.dumps(named, indent=1, sort_keys=True), encoding="utf-8")
        files = [one for one in self.into.rglob("*") if one.is_file() and not one.is_symlink()]
        for one in files:
            one.chmod(0o444)
        return len(files)

    def _keep(self, path: str, data: bytes) -> None:
        place = self._place(path)
        _make_room(place)
        told = _TOLD.get(path if path == "/proc/cmdline" else path.rpartition("/")[2])
        place.write_bytes(data if told is None else told(data.decode(errors="replace")).encode())

    def _of_self(self, path: str) -> str:
        """The judged process is the one that a captured tree knows."""
        own = f"{self.process}/"
        return f"/proc/self/{path.removeprefix(own)}" if path.startswith(own) else path

    def _place(self, path: str, *, last: bool = True) -> Path:
        """Where a path is kept: the links on the way are made, so that the same path leads there.

        Args:
            path: on the host.
            last: also follow a link in its last part.
        """
        kept = self._of_self(path)
        # /proc/self is a link that the kernel makes up, and another one for every reader.
        if kept.startswith("/proc/self/"):
            return self.into / kept.lstrip("/")
        parent, name = os.path.split(path.rstrip("/"))
        if parent == "/":
            return self.into / name
        here = f"{os.path.realpath(parent)}/{name}"
        self._mirror(parent)
        if last and Path(here).is_symlink():
            self._mirror(path)
            here = os.path.realpath(here)
        return self.into / here.lstrip("/")

    def _mirror(self, path: str) -> None:
        """Make the links on the way to this folder."""
        at = Path("/")
        for part in Path(path).parts[1:]:
            at /= part
            if at.is_symlink():
                place = self.into / os.path.realpath(at.parent).lstrip("/") / part
                if not place.is_symlink():
                    _make_room(place)
                    place.symlink_to(at.readlink())
                at = Path(os.path.realpath(at))
        if at.is_dir():
            _make_folder(self.into / str(at).lstrip("/"))


def _make_folder(place: Path) -> None:
    """A folder, also where an empty file stood for a name that was only listed."""
    if place.is_file():
        place.unlink()
    place.mkdir(parents=True, exist_ok=True)


def _make_room(place: Path) -> None:
    """Folders above it, and nothing in its place: an empty file stood for a name that was only listed."""
    _make_folder(place.parent)
    if place.is_symlink() or place.is_file():
        place.unlink()
