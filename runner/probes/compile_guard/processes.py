"""Processes of one guarded compile: found by a token in their environment, counted, ended.

Inductor's workers and the C++ or Triton compilers are grandchildren, and some start sessions of their own: neither
a parent's list nor a process group is sure to have them all. The environment is inherited by every one.
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
    """What a process tree uses at one moment: CPU seconds, resident bytes of its root, and its (pid, name)s."""

    cpu_s: float
    rss_bytes: int
    others: frozenset[tuple[int, str]]


def living(value: str, variable: str = TOKEN) -> list[psutil.Process]:
    """Every living process (zombies are dead) whose environment has this value of a variable.

    `TOKEN` names one child and all that it started; `RUN_ID` the whole run that it belongs to, its caller too.
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
    """What the tree below and with `root` uses now; None when `root` is gone.

    CPU seconds hold those of children that the tree has already waited for.
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


def left_of_run() -> list[psutil.Process]:
    """Processes of this process's run that live beside it and those it was started by; none without a run."""
    run_id = os.environ.get(RUN_ID)
    if not run_id:
        return []
    here = psutil.Process()
    own = {here.pid, *(parent.pid for parent in here.parents())}
    return [process for process in living(run_id, RUN_ID) if process.pid not in own]


def end(leader: int, token: str) -> int:
    """End the session's group and every process with the token: SIGTERM, a short grace, SIGKILL.

    Returns:
        How many processes were alive when it began.
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
    # Only while a living member is known: an empty group's number may have been given to somebody else.
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
