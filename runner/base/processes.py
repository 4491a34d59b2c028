"""Processes as listed in /proc on Linux: parent, session and state. Standard library only.

A scan of all processes takes longer than a process needs to fork and exit. Listing the children of one process is much
faster, so that a process that forks continuously can still be caught.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_DEAD = "ZX"
# Fields of `stat` in proc(5), counted after the name: state, parent, group, session, start time.
_STATE, _PARENT, _GROUP, _SESSION, _STARTED = 0, 1, 2, 3, 19


@dataclass(frozen=True)
class Stat:
    """One process at one moment. `started` distinguishes it from a later process with the same pid."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def lives(self) -> bool:
        """Whether it is not dead."""
        return self.state not in _DEAD

    def __str__(self) -> str:
        return f"process {self.pid} (state {self.state}, `{self.name}`)"


def stat_of(pid: int) -> Stat | None:
    """The state of a process; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode(errors="backslashreplace")
    except OSError:
        return None
    # A name may contain spaces, parentheses and terminal control sequences.
    head, _, rest = text.rpartition(")")
    name = "".join(one if one.isprintable() else "?" for one in head.partition("(")[2])
    fields = rest.split()
    parent, group, session, started = (int(fields[at]) for at in (_PARENT, _GROUP, _SESSION, _STARTED))
    return Stat(pid, name, fields[_STATE], parent, group, session, started)


def every() -> Iterator[Stat]:
    """Every visible process."""
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and (found := stat_of(int(folder.name))) is not None:
            yield found


def children_of(pid: int) -> list[int]:
    """Children of all its threads, including zombies; none if `LISTS_CHILDREN` is false."""
    found: list[int] = []
    tasks = _PROC / str(pid) / "task"
    with contextlib.suppress(OSError):
        for task in tasks.iterdir():
            # The thread, or the process, may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_bytes().split())
    return found


def descendants_of(pid: int) -> list[int]:
    """All descendants that exist during the scan; parents come before their children."""
    found = children_of(pid)
    for one in found:
        found += children_of(one)
    return found


# Kernels without CONFIG_PROC_CHILDREN do not list them.
LISTS_CHILDREN = (_PROC / "self" / "task" / str(os.getpid()) / "children").exists()


def is_own(pid: int) -> bool:
    """Whether a process belongs to the current user."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid)).stat().st_uid == os.geteuid()
    return False


def environment_has(pid: int, variable: str) -> bool:
    """Whether a process was started with `NAME=value`; False if its environment may not be read."""
    try:
        return variable.encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
