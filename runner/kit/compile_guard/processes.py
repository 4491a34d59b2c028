"""Processes of one guarded compile: found by a token in their environment, counted, ended.

Inductor's workers and the C++ or Triton compilers are grandchildren, and some start their own sessions, so neither the
list of children nor a process group contains all of them. All of them inherit the environment.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.base.errors import RunbookError
from runner.base.placed import PlacedFileError, read_placed
from runner.kit.judged import read_environ

TOKEN = "RUNBOOK_GUARD"  # noqa: S105 - the name of an environment variable, not a secret
RUN_ID = "RUNBOOK_RUN_ID"
GRACE_S = 1.0
_ROUNDS = 5
_NO_GROUP = -1
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


def living(value: str, variable: str = TOKEN) -> list[psutil.Process]:
    """Every living process (no zombies) whose environment has this value of a variable.

    `TOKEN` marks one child and its descendants; `RUN_ID` the whole run that it belongs to, including its caller.
    """
    mark = f"{variable}={value}".encode()
    found = []
    for pid in psutil.pids():
        try:
            if mark in read_environ(pid).split(b"\0"):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (RunbookError, psutil.Error):
            continue
    return found


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


def leftover_processes_of_run() -> list[psutil.Process]:
    """Living processes of this run other than this process and its ancestors; none outside a run."""
    run_id = os.environ.get(RUN_ID)
    if not run_id:
        return []
    here = psutil.Process()
    own = {here.pid, *(parent.pid for parent in here.parents())}
    return [process for process in living(run_id, RUN_ID) if process.pid not in own]


def end_marked(token: str) -> int:
    """End every process with the token, as `end` does, without a process group."""
    return end(_NO_GROUP, token)


def end(leader: int, token: str) -> int:
    """End the session's process group and every process with the token: SIGTERM, a short grace period, SIGKILL.

    Returns:
        The number of processes that were alive at the start.
    """
    found = living(token)
    _signal(leader, found, signal.SIGTERM)
    psutil.wait_procs(found, timeout=GRACE_S)
    for _ in range(_ROUNDS):
        left = living(token)
        if not left:
            break
        _signal(leader, left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=GRACE_S)
    return len(found)


def _signal(leader: int, processes: list[psutil.Process], number: signal.Signals) -> None:
    # Only if a living member is known: the id of an empty group may have been reused.
    if any(_group(process.pid) == leader for process in processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
