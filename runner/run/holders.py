"""Finds the processes that hold a flock(2) lock: every process that has the locked open file.

Standard library only.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from runner.base.processes import Stat, every


def holders(descriptor: int) -> tuple[Stat, ...]:
    """Living processes, except this one, that hold the lock on this open file.

    Only root sees processes of other users. The lock is listed for each descriptor of the open file (proc(5), fdinfo),
    so a process that only waits for the lock is not reported.
    """
    inode = os.fstat(descriptor).st_ino
    found = (stat for stat in every() if stat.pid != os.getpid() and stat.lives)
    return tuple(stat for stat in found if any(_holds(text, inode) for text in _descriptors(stat.pid)))


def _descriptors(pid: int) -> Iterator[str]:
    folder = Path("/proc") / str(pid) / "fdinfo"
    with contextlib.suppress(OSError):
        for descriptor in folder.iterdir():
            with contextlib.suppress(OSError):
                yield descriptor.read_bytes().decode(errors="replace")


def _holds(text: str, inode: int) -> bool:
    """Whether a descriptor holds the lock of this file: `lock: 1: FLOCK  ADVISORY  WRITE 4711 fe:00:2146661 0 EOF`."""
    words = (line.split() for line in text.splitlines() if line.startswith("lock:"))
    return any("FLOCK" in one and any(word.endswith(f":{inode}") for word in one) for one in words)
