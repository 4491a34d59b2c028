"""A control group of its own with a CPU quota, for one process; removed afterwards."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from runner.kit.probe import NotApplicableError
from runner.node.host.cgroups import folders_of, parse_membership
from runner.node.host.mounts import parse_mounts

_PERIOD_US = 100_000


@contextlib.contextmanager
def quota_group(cores: float) -> Iterator[Path]:
    """Make the group below this process's own, or below the nearest that hands CPU control to its children.

    Args:
        cores: how many cores the quota gives.

    Raises:
        NotApplicableError: no such group can be made here; it needs root and a writable hierarchy.
    """
    groups = parse_membership(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    found = folders_of("cpu", groups, mounts, os.path.isdir)
    parents = (
        [Path(one) for one in found.folders if _takes_children(Path(one), found.version)] if found else []
    )
    if found is None or not parents:
        raise NotApplicableError(
            "no control group with a CPU quota can be made here: that needs root, outside of a container"
        )
    folder = parents[0] / f"runbook-quota-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NotApplicableError(f"no control group can be made here: {error.strerror}") from error
    try:
        _set(folder, found.version, round(cores * _PERIOD_US))
        yield folder
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
        return "cpu" in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False


def _set(folder: Path, version: int, quota_us: int) -> None:
    name, text = (
        ("cpu.cfs_quota_us", f"{quota_us}") if version == 1 else ("cpu.max", f"{quota_us} {_PERIOD_US}")
    )
    try:
        (folder / name).write_text(text, encoding="ascii")
    except OSError as error:
        raise NotApplicableError(
            f"the CPU quota of a control group cannot be set: {error.strerror}"
        ) from error
