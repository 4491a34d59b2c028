"""Which processes hold a lock of flock(2): each that has the open file which the lock belongs to.

Standard library alone.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from runner.launch.processes import Stat, every


def holders(descriptor: int) -> tuple[Stat, ...]:
    """Living processes, this one left out, that hold the lock on the file that is open here.

    Those of other users are seen by root alone. A lock that an open file holds is listed with each descriptor of it
    (proc(5), fdinfo), so somebody who only waits for the lock is not taken for its holder.
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
    """Whether a descriptor has the lock of this file: `lock: 1: FLOCK  ADVISORY  WRITE 4711 fe:00:2146661 0 EOF`."""
    words = (line.split() for line in text.splitlines() if line.startswith("lock:"))
    return any("FLOCK" in one and any(word.endswith(f":{inode}") for word in one) for one in words)
