"""Finds and ends every process that a block leaves behind, wherever it went: other groups, other sessions, daemons.

On Linux this process makes itself a child subreaper: whatever a block's process orphans becomes a child of this
process, so a daemon cannot get away by forking twice, by setsid, or by clearing its environment.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache

import psutil

_PR_SET_CHILD_SUBREAPER = 36
TOKEN = "RUNBOOK_STEP_TOKEN"  # noqa: S105 - the name of a variable that marks processes, no secret
_POLL_S = 0.01

# Blocks that run at this moment, by the pid of their shell: when several run side by side, an orphan is told by its
# session or its token, and nobody ends or reaps the others' processes.
_running: set[int] = set()
_lock = threading.Lock()


@cache
def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans. False where the system has no such thing."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Brood:
    """The processes of one block, from just before its shell starts until nothing of it is left."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._subreaper = become_subreaper()
        self._before = frozenset(_children())
        self._shell: int | None = None

    def starts(self, shell: int) -> None:
        """The block's shell runs under this pid."""
        self._shell = shell
        with _lock:
            _running.add(shell)

    def ends(self) -> None:
        """The block is over and its shell has been reaped."""
        with _lock:
            _running.discard(self._shell or 0)

    def alive(self) -> list[psutil.Process]:
        """Processes of the block that live, its shell left out."""
        if self._subreaper and _childless():
            return []
        found: dict[int, psutil.Process] = {}
        for process in self._roots():
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                found.update({child.pid: child for child in process.children(recursive=True)})
        found.pop(self._shell or 0, None)
        return [process for process in found.values() if _lives(process)]

    def _roots(self) -> Iterable[psutil.Process]:
        with _lock:
            others = _running - {self._shell}
        for pid in _children():
            if pid in self._before or pid in others:
                continue
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if not others or pid == self._shell or self._is_mine(pid, process):
                    yield process
        if not self._subreaper:
            for process in psutil.process_iter():
                if process.pid != os.getpid() and self._is_mine(process.pid, process):
                    yield process

    def _is_mine(self, pid: int, process: psutil.Process) -> bool:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == self._shell:
                return True
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(TOKEN) == self._token
        return False

    def end(self, grace_s: float, wait: Callable[[float], None]) -> int:
        """Ask every process of the block to end, then make it; the number that had to be ended.

        Args:
            grace_s: seconds between SIGTERM and SIGKILL.
            wait: called with seconds to pass between looks, so that the caller can go on reading output.
        """
        ended: set[int] = set()
        deadline = time.monotonic() + grace_s
        asked: set[int] = set()
        while True:
            alive = self.alive()
            # A process that forked and died while it was looked at has left its child behind: look again.
            if not alive and not self.reap():
                return len(ended)
            late = time.monotonic() >= deadline
            for process in alive:
                ended.add(process.pid)
                if late or process.pid not in asked:
                    asked.add(process.pid)
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
            if alive:
                wait(_POLL_S)
                self.reap()

    def reap(self) -> bool:
        """Collect dead orphans of this block, and say whether there were any.

        Never a child that other code started and waits for.
        """
        if self._subreaper and _childless():
            return False
        with _lock:
            spared = self._before | _running
        collected = False
        for pid in set(_children()) - spared:
            with contextlib.suppress(ChildProcessError):
                collected |= os.waitpid(pid, os.WNOHANG)[0] != 0
        return collected


def _childless() -> bool:
    """Whether this process has no child at all, living or dead: one system call, however many processes there are."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _children() -> list[int]:
    if _childless():
        return []
    return [child.pid for child in psutil.Process().children()]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.Error:
        return False
