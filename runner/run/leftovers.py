"""Finds and kills every process that a block leaves behind, also in other process groups and sessions, and daemons.

On Linux this process becomes a child subreaper: orphans of a block's processes become its children, so a daemon cannot
escape by a double fork, by setsid, or by clearing its environment.
"""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache

from runner.base.processes import (
    Cleared,
    Stat,
    children_of,
    end_all,
    environment_has,
    stat_of,
    with_descendants,
    with_mark,
)
from runner.run import lock, watchdog

_PR_SET_CHILD_SUBREAPER = 36
TOKEN = watchdog.TOKEN

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


class ProcessTree:
    """The process tree of one block, from just before its shell starts until no process of it is left."""

    def __init__(self, token: str) -> None:
        self._token, self._mark = token, f"{TOKEN}={token}"
        self._subreaper = become_subreaper()
        # Before the shell starts, so that the watchdog cleans up if the runner is killed in between.
        watchdog.begins(token, lock.held())
        self._shell: int | None = None
        self._seen: set[int] = set()
        with _guard:
            self._before = frozenset(children_of(os.getpid())) - frozenset(_running.values())
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

    def _alive(self) -> list[Stat]:
        """Living processes of the block, except its shell."""
        found = [stat for stat in with_descendants(self._roots()) if stat.pid != self._shell]
        self._seen |= {stat.pid for stat in found}
        return found

    def _roots(self) -> Iterable[int]:
        spared, alone = self._others()
        for pid in children_of(os.getpid()):
            if pid not in spared and (alone or pid == self._shell or self._is_mine(pid)):
                yield pid
        if not self._subreaper:
            yield from (stat.pid for stat in with_mark(self._mark))

    def _others(self) -> tuple[set[int], bool]:
        """Children of this process that cannot belong to this block, and whether no other block is running."""
        with _guard:
            shells = {shell for token, shell in _running.items() if token != self._token}
        return {*self._before, *shells, watchdog.pid() or 0}, not shells

    def _is_mine(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == self._shell:
                return True
        return environment_has(pid, self._mark)

    def end(self, grace_s: float, patience_s: float, wait: Callable[[float], None]) -> Cleared:
        """End every process of the block except its shell, as `end_all`; counts those of earlier calls too."""
        cleared = end_all(self._alive, grace_s, patience_s, group=self._shell, wait=wait, reap=self._reap)
        return Cleared(len(self._seen), cleared.left)

    def _reap(self) -> bool:
        """Reap dead orphans of this block; returns whether there were any.

        Never reaps a child that other code started and waits for.
        """
        spared, alone = self._others()
        collected = False
        for pid in set(children_of(os.getpid())) - spared - {self._shell}:
            stat = stat_of(pid)
            # A dead process has no readable token; an unidentified one is left until this process exits.
            if alone or pid in self._seen or (stat is not None and stat.session == self._shell):
                with contextlib.suppress(ChildProcessError):
                    collected |= os.waitpid(pid, os.WNOHANG)[0] != 0
        return collected
