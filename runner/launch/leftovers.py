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
from dataclasses import dataclass
from functools import cache

import psutil

from runner.launch import lock, watchdog
from runner.launch.processes import LISTS_CHILDREN, Stat, children_of, descendants_of, stat_of

_PR_SET_CHILD_SUBREAPER = 36
TOKEN = watchdog.TOKEN
# Seconds between two looks: short at first, so that what ends at once is not waited for, and what forks without end is
# caught between two forks; longer later, since looking all the time at what SIGKILL does not end costs a core.
_FIRST_POLL_S, _LONGEST_POLL_S, _SLOWER = 0.001, 0.5, 1.1

# Blocks that run at this moment, by their token, each with the pid of its shell once that has started: when several run
# side by side, an orphan is told by its session or its token, and nobody ends or reaps the others' processes.
_running: dict[str, int] = {}
_guard = threading.Lock()


@cache
def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans. False where the system has no such thing."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


@dataclass(frozen=True)
class Cleared:
    """What became of the processes of a block.

    Attributes:
        ended: how many had to be ended.
        left: those that live on although they were killed: in a system call that nothing interrupts, another user's, or
            one that forks faster than it can be found.
    """

    ended: int
    left: tuple[Stat, ...] = ()


class Brood:
    """The processes of one block, from just before its shell starts until nothing of it is left."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._subreaper = become_subreaper()
        # Before the shell: a runner that is killed in between leaves it to the watchdog.
        watchdog.begins(token, lock.held())
        self._shell: int | None = None
        self._seen: set[int] = set()
        with _guard:
            self._before = frozenset(_children()) - frozenset(_running.values())
            _running[token] = 0

    def starts(self, shell: int) -> None:
        """The block's shell runs under this pid."""
        self._shell = shell
        with _guard:
            _running[self._token] = shell
        watchdog.has_shell(self._token, shell)

    def ends(self) -> None:
        """The block is over: its shell has been reaped, or cannot be ended."""
        watchdog.is_over(self._token)
        with _guard:
            _running.pop(self._token, None)

    def alive(self) -> list[Stat]:
        """Processes of the block that live, its shell left out."""
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
        """Children of this process that are surely not this block's, and whether no other block runs."""
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
        """Ask every process of the block to end, then make it, and give up on what does not.

        Args:
            grace_s: seconds between SIGTERM and SIGKILL.
            patience_s: seconds from SIGKILL until what still lives is named as left.
            wait: called with seconds to pass between looks, so that the caller can go on reading output.
        """
        asked: set[int] = set()
        deadline, poll = time.monotonic() + grace_s, _FIRST_POLL_S
        while True:
            alive = self.alive()
            # A process that forked and died while it was looked at has left its child behind: look again.
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
                # Whoever was asked may start programs to clean up with, and is let.
                strangers = [stat for stat in alive if not asked & {stat.pid, stat.parent}]
                asked.update(stat.pid for stat in strangers)
                for stat in strangers:
                    _signal(stat.pid, signal.SIGTERM)
            if alive:
                # Whoever forks as fast as it is killed is caught by looking at once.
                poll = (
                    0.0
                    if new and now >= deadline
                    else min(max(poll, _FIRST_POLL_S) * _SLOWER, _LONGEST_POLL_S)
                )
                # The first look after the grace comes as soon as it is over.
                wait(min(poll, deadline - now) if now < deadline else poll)
                self.reap()

    def _kill(self, alive: Iterable[Stat]) -> None:
        # A group is signalled as a whole, so that none of its processes can fork out of it; with a living member its
        # number cannot have been given to another group.
        if self._shell is not None and any(stat.group == self._shell for stat in alive):
            with contextlib.suppress(OSError):
                os.killpg(self._shell, signal.SIGKILL)
        for stat in alive:
            _signal(stat.pid, signal.SIGKILL)

    def reap(self) -> bool:
        """Collect dead orphans of this block, and say whether there were any.

        Never a child that other code started and waits for.
        """
        spared, alone = self._others()
        collected = False
        for pid in set(_children()) - spared - {self._shell}:
            stat = stat_of(pid)
            # Who is dead has no token any more; one that cannot be told is left until this process ends.
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
