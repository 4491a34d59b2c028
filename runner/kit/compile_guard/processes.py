"""Resources of a compile's processes, Inductor's compile workers among them, and what a run left behind."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.base.placed import PlacedFileError, read_placed
from runner.base.processes import Stat, with_mark

_RUN_ID = "RUNBOOK_RUN_ID"
_WORKER_MARK = b"_inductor/compile_worker/"
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class Usage:
    """Resource usage of a process tree.

    Attributes:
        cpu_s: CPU seconds of all its processes.
        rss_bytes: resident bytes of its root.
        others: its processes other than the root and Inductor's compile workers, as (pid, name).
        workers: compile workers, with the sidecar that forks them.
    """

    cpu_s: float
    rss_bytes: int
    others: frozenset[tuple[int, str]]
    workers: int


def usage(root: psutil.Process) -> Usage | None:
    """Current usage of `root` and its descendants; None if `root` has ended.

    CPU seconds include those of children that the tree has already waited for.
    """
    try:
        tree = [root, *root.children(recursive=True)]
        rss = root.memory_info().rss
    except psutil.Error:
        return None
    cpu, others, workers = 0.0, set(), 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            cpu += cpu_of(process)
            if process.pid == root.pid:
                continue
            if is_worker(process):
                workers += 1
            else:
                others.add((process.pid, process.name()))
    return Usage(cpu, rss, frozenset(others), workers)


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process and of the children that it has waited for."""
    times = process.cpu_times()
    seconds: float = times.user + times.system + times.children_user + times.children_system
    return seconds


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is one of Inductor's compile workers, or the sidecar that forks them; both by command line."""
    # psutil reads a whole command line, which a process can make arbitrarily large.
    with contextlib.suppress(PlacedFileError):
        return _WORKER_MARK in read_placed(Path(f"/proc/{process.pid}/cmdline"), _MOST_BYTES)
    return False


def leftover_processes_of_run() -> list[Stat]:
    """Living processes of this run other than this process and its ancestors; none outside a run."""
    run_id = os.environ.get(_RUN_ID)
    if not run_id:
        return []
    above = {parent.pid for parent in psutil.Process().parents()}
    return [stat for stat in with_mark(f"{_RUN_ID}={run_id}") if stat.pid not in above]
