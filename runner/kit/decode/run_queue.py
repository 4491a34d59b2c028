"""Run-queue wait of this process: how long its threads were runnable but had no core, which shows interference.

A fault under test, such as too few threads, does not make threads wait for a core; another busy process does. So a
comparison may drop disturbed turns without bias. Linux counts this time per thread in /proc/self/task/*/schedstat
(second number, in ns).
"""

import contextlib
from pathlib import Path

# Above this share of time, a turn counts as disturbed. Undisturbed, two threads that wake together wait up to 3 %
# (measured on two cores); another busy process costs tens of percent.
MOST_WAITED = 0.05


def waited() -> float | None:
    """Total seconds that the living threads have waited for a core; None if the kernel has no counter."""
    total, known = 0, False
    for path in Path("/proc/self/task").glob("*/schedstat"):
        # A thread may end between listing and reading; its file is then unreadable or empty.
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(path.read_text(encoding="ascii").split()[1])
            known = True
    return total / 1e9 if known else None


def share(before: float | None, after: float | None, seconds: float) -> float | None:
    """The share of the time spent waiting, summed over threads; None if unknown."""
    return None if before is None or after is None else max(0.0, after - before) / seconds
