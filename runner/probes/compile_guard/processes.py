"""Processes of one guarded compile: found by a token in their environment, counted, ended.

Inductor's workers and the C++ or Triton compilers are grandchildren, and some start their own sessions, so neither the
list of children nor a process group contains all of them. All of them inherit the environment.
"""

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

from runner.errors import RunbookError
from runner.probes.judged import read_environ

TOKEN = "RUNBOOK_GUARD"  # noqa: S105 - the name of an environment variable, not a secret
RUN_ID = "RUNBOOK_RUN_ID"
GRACE_S = 1.0
_ROUNDS = 5


@dataclass(frozen=True)
class Usage:
    """Resource usage of a process tree: CPU seconds, resident bytes of its root, and its (pid, name) pairs."""

    cpu_s: float
    rss_bytes: int
    others: frozenset[tuple[int, str]]


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
    cpu, others = 0.0, set()
    for process in tree:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            if process.pid != root.pid:
                others.add((process.pid, process.name()))
    return Usage(cpu, rss, frozenset(others))


def leftover_processes_of_run() -> list[psutil.Process]:
    """Living processes of this run other than this process and its ancestors; none outside a run."""
    run_id = os.environ.get(RUN_ID)
    if not run_id:
        return []
    here = psutil.Process()
    own = {here.pid, *(parent.pid for parent in here.parents())}
    return [process for process in living(run_id, RUN_ID) if process.pid not in own]


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
