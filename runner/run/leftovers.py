"""Finds and kills every process that a block leaves behind, also in other process groups and sessions, and daemons.

On Linux this process becomes a child subreaper: orphans of a block's processes become its children, so a daemon cannot
escape by a double fork, by setsid, or by clearing its environment.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import psutil

from runner.base.processes import LISTS_CHILDREN, Stat, children_of, descendants_of, stat_of
from runner.run import lock, watchdog

_PR_SET_CHILD_SUBREAPER = 36
TOKEN = watchdog.TOKEN
# Seconds between two scans: short at first, so that a process that ends at once causes no delay and one that forks
# continuously is caught; longer later, because scanning for a process that SIGKILL does not end costs CPU time.
_FIRST_POLL_S, _LONGEST_POLL_S, _SLOWER = 0.001, 0.5, 1.1

# Running blocks by token, each with the pid of its shell once started. When several run in parallel, an orphan is
# identified by its session or its token, so that no block kills or reaps processes of another.
_running: dict[str, int] = {}
_guard = threading.Lock()


@cache
def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans; False if the system does not support this."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


@dataclass(frozen=True)
class Cleared:
    """What happened to the processes of a block.

    Attributes:
        ended: how many had to be terminated.
        left: processes that survived SIGKILL: in an uninterruptible system call, of another user, or forking faster
            than they can be found.
    """

    ended: int
    left: tuple[Stat, ...] = ()


class ProcessTree:
    """The process tree of one block, from just before its shell starts until no process of it is left."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._subreaper = become_subreaper()
        # Before the shell starts, so that the watchdog cleans up if the runner is killed in between.
        watchdog.begins(token, lock.held())
        self._shell: int | None = None
        self._seen: set[int] = set()
        with _guard:
            self._before = frozenset(_children()) - frozenset(_running.values())
            _running[token] = 0

    def starts(self, shell: int) -> None:
        """Register the pid of the block's shell."""
        self._shell = shell
        with _guard:
            _running[self._token] = shell
        watchdog.has_shell(self._token, shell)

    def ends(self) -> None:
        """Unregister the block: its shell has been reaped, or cannot be killed."""
        watchdog.is_over(self._token)
        with _guard:
            _running.pop(self._token, None)

    def alive(self) -> list[Stat]:
        """Living processes of the block, except its shell."""
        found: dict[int, Stat] = {}
        for root in self._roots():
            for pid in (root, *_descendants(root)):
                stat = stat_of(pid)
                if stat is not None and stat.lives:
                    found[pid] = stat
        found.pop(self._shell or 0, None)
        return list(found.values())

    def _roots(self) -> Iterable[int]:
        spared, alone = self._others()
        for pid in _children():
            if pid not in spared and (alone or pid == self._shell or self._is_mine(pid)):
                yield pid
        if not self._subreaper:
            yield from (pid for pid in psutil.pids() if pid != os.getpid() and self._is_mine(pid))

    def _others(self) -> tuple[set[int], bool]:
        """Children of this process that cannot belong to this block, and whether no other block is running."""
        with _guard:
            shells = {shell for token, shell in _running.items() if token != self._token}
        return {*self._before, *shells, watchdog.pid() or 0}, not shells

    def _is_mine(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == self._shell:
                return True
        with contextlib.suppress(psutil.Error, OSError):
            return psutil.Process(pid).environ().get(TOKEN) == self._token
        return False

    def end(self, grace_s: float, patience_s: float, wait: Callable[[float], None]) -> Cleared:
        """Send SIGTERM to every process of the block, then SIGKILL, and give up on those that survive.

        Args:
            grace_s: seconds between SIGTERM and SIGKILL.
            patience_s: seconds after SIGKILL until surviving processes are reported as left.
            wait: called with the seconds to wait between scans, so that the caller can read output meanwhile.
        """
        asked: set[int] = set()
        deadline, poll = time.monotonic() + grace_s, _FIRST_POLL_S
        while True:
            alive = self.alive()
            # A process that forked and died during the scan has left a child: scan again.
            if not alive and not self.reap():
                return Cleared(len(self._seen))
            now = time.monotonic()
            if now >= deadline + patience_s:
                return Cleared(len(self._seen), tuple(alive))
            new = {stat.pid for stat in alive} - self._seen
            self._seen |= new
            if now >= deadline:
                self._kill(alive)
            else:
                # During the grace a process may start programs to clean up.
                strangers = [stat for stat in alive if not asked & {stat.pid, stat.parent}]
                asked.update(stat.pid for stat in strangers)
                for stat in strangers:
                    _signal(stat.pid, signal.SIGTERM)
            if alive:
                # A process that forks as fast as it is killed is caught by scanning without delay.
                poll = (
                    0.0
                    if new and now >= deadline
                    else min(max(poll, _FIRST_POLL_S) * _SLOWER, _LONGEST_POLL_S)
                )
                # The first scan after the grace comes immediately.
                wait(min(poll, deadline - now) if now < deadline else poll)
                self.reap()

    def _kill(self, alive: Iterable[Stat]) -> None:
        # Signal the whole group, so that no process of it can fork meanwhile; while a member lives, the group id cannot
        # have been reused.
        if self._shell is not None and any(stat.group == self._shell for stat in alive):
            with contextlib.suppress(OSError):
                os.killpg(self._shell, signal.SIGKILL)
        for stat in alive:
            _signal(stat.pid, signal.SIGKILL)

    def reap(self) -> bool:
        """Reap dead orphans of this block; returns whether there were any.

        Never reaps a child that other code started and waits for.
        """
        spared, alone = self._others()
        collected = False
        for pid in set(_children()) - spared - {self._shell}:
            stat = stat_of(pid)
            # A dead process has no readable token; an unidentified one is left until this process exits.
            if alone or pid in self._seen or (stat is not None and stat.session == self._shell):
                with contextlib.suppress(ChildProcessError):
                    collected |= os.waitpid(pid, os.WNOHANG)[0] != 0
        return collected


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _children() -> list[int]:
    if LISTS_CHILDREN:
        return children_of(os.getpid())
    return [child.pid for child in psutil.Process().children()]


def _descendants(pid: int) -> list[int]:
    if LISTS_CHILDREN:
        return descendants_of(pid)
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []
