"""A control group of its own for one process, with a memory limit; removed afterwards."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from runner.kit.probe import NotApplicableError
from runner.node.host.cgroups import folders_of, parse_counters, parse_membership
from runner.node.host.mounts import parse_mounts


class ChildGroup:
    """The folder of the group, and how many of its processes the kernel killed for memory."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder, self._version = folder, version

    def kills(self) -> int:
        """Processes that the kernel killed since the group was made."""
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        text = (self.folder / name).read_text(encoding="ascii")
        return parse_counters(text).get("oom_kill", 0)


@contextlib.contextmanager
def child_group(limit: int) -> Iterator[ChildGroup]:
    """Make the group below this process's own, or below the nearest that hands memory control to its children.

    Args:
        limit: bytes of memory; swap is not given.

    Raises:
        NotApplicableError: no such group can be made here; it needs root and a writable hierarchy.
    """
    groups = parse_membership(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    found = folders_of("memory", groups, mounts, os.path.isdir)
    parents = (
        [Path(one) for one in found.folders if _takes_children(Path(one), found.version)] if found else []
    )
    if found is None or not parents:
        raise NotApplicableError(
            "no control group with memory control can be made here: that needs root, outside of a container"
        )
    folder = parents[0] / f"runbook-limits-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NotApplicableError(f"no control group can be made here: {error.strerror}") from error
    try:
        _set(folder, found.version, limit)
        yield ChildGroup(folder, found.version)
    finally:
        # Its process has ended; if not, the kernel refuses.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _takes_children(folder: Path, version: int) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    if version == 1:
        return True
    try:
        return "memory" in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False


def _set(folder: Path, version: int, limit: int) -> None:
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version == 1 else ("memory.max",)
    try:
        (folder / names[0]).write_text(str(limit), encoding="ascii")
    except OSError as error:
        raise NotApplicableError(
            f"the memory limit of a control group cannot be set: {error.strerror}"
        ) from error
    # Kernels may account no swap.
    for name, value in (*((name, str(limit)) for name in names[1:]), ("memory.swap.max", "0")):
        with contextlib.suppress(OSError):
            if (folder / name).exists():
                (folder / name).write_text(value, encoding="ascii")
