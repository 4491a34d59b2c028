"""A control group of its own for the processes of a drill; removed afterwards."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.kit.probe import NotApplicableError
from runner.node.host.cgroups import folders_of, parse_membership
from runner.node.host.mounts import parse_mounts


@dataclass(frozen=True)
class OwnGroup:
    """The group's folder, and the version of control groups, 1 or 2."""

    folder: Path
    version: int

    def limit(self, file: str, text: str) -> None:
        """Write a limit into a file of the group.

        Raises:
            NotApplicableError: the kernel refuses it.
        """
        try:
            (self.folder / file).write_text(text, encoding="ascii")
        except OSError as error:
            raise NotApplicableError(f"{file} of a control group cannot be set: {error.strerror}") from error


@contextlib.contextmanager
def own_group(controller: str) -> Iterator[OwnGroup]:
    """Make a group below this process's own, or below the nearest that hands the controller to its children.

    Args:
        controller: `cpu` or `memory`.

    Raises:
        NotApplicableError: no such group can be made here; it needs root and a writable hierarchy.
    """
    groups = parse_membership(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    found = folders_of(controller, groups, mounts, os.path.isdir)
    folders = [Path(one) for one in found.folders] if found else []
    parents = [one for one in folders if found and _takes_children(one, controller, found.version)]
    if found is None or not parents:
        raise NotApplicableError(
            f"no control group with {controller} control can be made here: that needs root, outside of a container"
        )
    folder = parents[0] / f"runbook-{controller}-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NotApplicableError(f"no control group can be made here: {error.strerror}") from error
    try:
        yield OwnGroup(folder, found.version)
    finally:
        # Its processes have ended; if not, the kernel refuses.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _takes_children(folder: Path, controller: str, version: int) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    if version == 1:
        return True
    try:
        return controller in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False
