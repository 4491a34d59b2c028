"""How long this process's threads stood ready and had no core: the sure sign that other work disturbed a timing.

A fault under test, too few threads say, does not make threads wait for a core; a busy neighbour does. So a comparison
may leave out what was disturbed without favouring either side. Linux keeps the time per thread, in
/proc/self/task/*/schedstat (second number, in ns).
"""

import contextlib
from pathlib import Path

# Above this share of the time a turn was disturbed. Left in peace, two threads that wake at once wait up to 3 % (seen
# on two cores); a neighbour at work costs tens of percent.
MOST_WAITED = 0.05


def waited() -> float | None:
    """Seconds that the threads now alive have waited for a core in all; None where the kernel keeps no such count."""
    total, known = 0, False
    for path in Path("/proc/self/task").glob("*/schedstat"):
        # A thread may end between its listing and its reading, which is then refused or empty.
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(path.read_text(encoding="ascii").split()[1])
            known = True
    return total / 1e9 if known else None


def share(before: float | None, after: float | None, seconds: float) -> float | None:
    """The part of the time that was waited away, summed over threads; None where unknown."""
    return None if before is None or after is None else max(0.0, after - before) / seconds
