"""Whether a process runs: its state, its CPU time, how often its main thread was switched. Reads /proc only."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from runner.base.placed import PlacedFileError, read_placed
from runner.base.processes import stat_of
from runner.hang.model import ProcessState

_PROC = Path("/proc")
_MOST_BYTES = 64 << 10
# Fields of `stat` in proc(5), counted after the name: CPU time in user mode and in the kernel, in clock ticks.
_USER, _KERNEL = 11, 12
_SWITCHES = re.compile(rb"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
_STATES = MappingProxyType(
    {
        "R": ProcessState.RUNNING,
        "S": ProcessState.SLEEPING,
        "I": ProcessState.SLEEPING,
        "D": ProcessState.UNINTERRUPTIBLE,
        "T": ProcessState.STOPPED,
        "t": ProcessState.STOPPED,
        "Z": ProcessState.ZOMBIE,
        "X": ProcessState.GONE,
        "x": ProcessState.GONE,
    }
)


@dataclass(frozen=True)
class Motion:
    """One reading of a process.

    Attributes:
        at: `time.monotonic()` of the reading.
        state: of its main thread.
        cpu_s: CPU time of all its threads, in seconds.
        main: what changes whenever its main thread runs; None if the kernel does not tell.
    """

    at: float
    state: ProcessState
    cpu_s: float
    main: tuple[int, ...] | None

    def share_until(self, later: "Motion") -> float | None:
        """CPU seconds per second between two readings; None if they are too close."""
        seconds = later.at - self.at
        return max(0.0, later.cpu_s - self.cpu_s) / seconds if seconds > 0 else None

    def still_until(self, later: "Motion") -> bool | None:
        """Whether the main thread never ran between two readings; None if the kernel does not tell."""
        return None if self.main is None or later.main is None else self.main == later.main


def read_motion(pid: int, started: int) -> Motion:
    """A reading of the process that was started then; a later one with its pid counts as gone."""
    stat = stat_of(pid)
    at = time.monotonic()
    if stat is None or stat.started != started:
        return Motion(at, ProcessState.GONE, 0.0, None)
    state = _STATES.get(stat.state, ProcessState.SLEEPING)
    try:
        return Motion(at, state, _cpu_s(_PROC / str(pid) / "stat"), _main_thread(pid))
    except (PlacedFileError, ValueError, IndexError):
        return Motion(at, state, 0.0, None)


def _cpu_s(stat: Path) -> float:
    fields = read_placed(stat, _MOST_BYTES).rpartition(b")")[2].split()
    return (int(fields[_USER]) + int(fields[_KERNEL])) / os.sysconf("SC_CLK_TCK")


def _main_thread(pid: int) -> tuple[int, ...] | None:
    """Its context switches, and its CPU time in nanoseconds where the kernel counts it, else in clock ticks."""
    task = _PROC / str(pid) / "task" / str(pid)
    switches = [int(number) for number in _SWITCHES.findall(read_placed(task / "status", _MOST_BYTES))]
    try:
        ran = [int(read_placed(task / "schedstat", _MOST_BYTES).split()[0])]
    except (PlacedFileError, ValueError, IndexError):
        ran = [round(_cpu_s(task / "stat") * 1e9)]
    return (*switches, *ran) if switches else None
