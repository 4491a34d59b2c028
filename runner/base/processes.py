"""Processes as listed in /proc on Linux: found, signalled, and ended with all that they started. Standard library only.

A process is named by its pid and its start time, so no signal reaches a later process with the same pid. Processes of a
program are found by its session, by a mark in their environment, and by descent.

A scan of all processes takes longer than a process needs to fork and exit. Listing the children of one process is much
faster, so that a process that forks continuously can still be caught.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_DEAD = "ZX"
# Fields of `stat` in proc(5), counted after the name: state, parent, group, session, start time.
_STATE, _PARENT, _GROUP, _SESSION, _STARTED = 0, 1, 2, 3, 19
# The kernel passes at most 6 MiB to a new program; a process may declare more of its memory as its environment.
_MOST_BYTES = 8 << 20
# Seconds between two scans: short at first, so that a process that ends at once causes no delay and one that forks
# continuously is caught; longer later, because scanning for a process that SIGKILL does not end costs CPU time.
_FIRST_POLL_S, _LONGEST_POLL_S, _SLOWER = 0.001, 0.5, 1.1


@dataclass(frozen=True)
class Stat:
    """One process at one moment. `started` distinguishes it from a later process with the same pid."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def lives(self) -> bool:
        """Whether it is not dead."""
        return self.state not in _DEAD

    def __str__(self) -> str:
        return f"process {self.pid} (state {self.state}, `{self.name}`)"


@dataclass(frozen=True)
class Cleared:
    """What happened to the processes of a program.

    Attributes:
        ended: how many had to be terminated.
        left: processes that survived SIGKILL: in an uninterruptible system call, of another user, or forking faster
            than they can be found.
    """

    ended: int = 0
    left: tuple[Stat, ...] = ()


def stat_of(pid: int) -> Stat | None:
    """The state of a process; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode(errors="backslashreplace")
    except OSError:
        return None
    # A name may contain spaces, parentheses and terminal control sequences.
    head, _, rest = text.rpartition(")")
    name = "".join(one if one.isprintable() else "?" for one in head.partition("(")[2])
    fields = rest.split()
    parent, group, session, started = (int(fields[at]) for at in (_PARENT, _GROUP, _SESSION, _STARTED))
    return Stat(pid, name, fields[_STATE], parent, group, session, started)


def every() -> Iterator[Stat]:
    """Every visible process."""
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and (found := stat_of(int(folder.name))) is not None:
            yield found


def children_of(pid: int) -> list[int]:
    """Children of all its threads, including zombies."""
    if not _LISTS_CHILDREN:
        return [stat.pid for stat in every() if stat.parent == pid]
    found: list[int] = []
    tasks = _PROC / str(pid) / "task"
    with contextlib.suppress(OSError):
        for task in tasks.iterdir():
            # The thread, or the process, may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_bytes().split())
    return found


def descendants_of(pid: int) -> list[int]:
    """All descendants that exist during the scan; parents come before their children."""
    found = children_of(pid)
    for one in found:
        found += children_of(one)
    return found


# Kernels without CONFIG_PROC_CHILDREN do not list them.
_LISTS_CHILDREN = (_PROC / "self" / "task" / str(os.getpid()) / "children").exists()


def with_descendants(pids: Iterable[int]) -> list[Stat]:
    """These processes and all their descendants, those that are alive."""
    found = list(pids)
    found += (child for pid in tuple(found) for child in descendants_of(pid))
    stats = (stat_of(pid) for pid in dict.fromkeys(found))
    return [stat for stat in stats if stat is not None and stat.lives]


def in_session(leader: int, started: int, among: Iterable[Stat] | None = None) -> list[Stat]:
    """Living processes of the session that this process led or leads; none if its pid was reused.

    Args:
        leader: its pid.
        started: its start time.
        among: the processes to search; default: every one.
    """
    now = stat_of(leader)
    if now is not None and now.started != started:
        return []
    stats = every() if among is None else among
    return [stat for stat in stats if stat.session == leader and stat.lives]


def with_mark(mark: str, among: Iterable[Stat] | None = None) -> list[Stat]:
    """Living processes of this user, except this one, that were started with `mark` (`NAME=value`).

    The environment of another user's process may be mapped from a file on a dead mount, which blocks the reader.
    """
    here, stats = os.getpid(), every() if among is None else among
    own = (stat for stat in stats if stat.lives and stat.pid != here and is_own(stat.pid))
    return [stat for stat in own if environment_has(stat.pid, mark)]


def is_own(pid: int) -> bool:
    """Whether a process belongs to the current user."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid)).stat().st_uid == os.geteuid()
    return False


def environment_has(pid: int, variable: str) -> bool:
    """Whether a process was started with `NAME=value`; False if its environment may not be read."""
    try:
        with (_PROC / str(pid) / "environ").open("rb") as file:
            return variable.encode() in file.read(_MOST_BYTES).split(b"\0")
    except OSError:
        return False


def send(process: Stat, number: signal.Signals) -> None:
    """Send a signal to this process, and to no later one with its pid; nothing happens if it may not be signalled."""
    descriptor = None
    # An old kernel and some sandboxes have no such descriptors, nor has a Python built for old kernels the functions.
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.pidfd_open(process.pid)
    try:
        # The descriptor names the process that has the pid now.
        now = stat_of(process.pid)
        if now is not None and now.started == process.started:
            _send_now(process.pid, descriptor, number)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _send_now(pid: int, descriptor: int | None, number: signal.Signals) -> None:
    try:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
            return
    except ProcessLookupError:
        return
    except (OSError, AttributeError):
        # Refused, as above, although there is a descriptor.
        pass
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def end_all(
    find: Callable[[], Sequence[Stat]],
    grace_s: float,
    patience_s: float,
    *,
    group: int | None = None,
    wait: Callable[[float], None] = time.sleep,
    reap: Callable[[], bool] = lambda: False,
) -> Cleared:
    """Send SIGTERM to every process that is found, then SIGKILL, and give up on those that survive.

    Args:
        find: the living processes; called again until there are none.
        grace_s: seconds between SIGTERM and SIGKILL.
        patience_s: seconds after SIGKILL until surviving processes are reported as left.
        group: a process group that gets SIGKILL as a whole while one of its processes is found, so that none of them
            can fork meanwhile.
        wait: called with the seconds to wait between scans, so that the caller can read output meanwhile.
        reap: reaps dead processes that are the caller's children; returns whether there were any.
    """
    seen: set[int] = set()
    asked: set[int] = set()
    deadline, poll = time.monotonic() + grace_s, _FIRST_POLL_S
    while True:
        alive = find()
        # A process that forked and died during the scan has left a child: scan again.
        if not alive and not reap():
            return Cleared(len(seen))
        now = time.monotonic()
        if now >= deadline + patience_s:
            return Cleared(len(seen), tuple(alive))
        new = {stat.pid for stat in alive} - seen
        seen |= new
        if now >= deadline:
            _kill(alive, group)
        else:
            # During the grace a process may start programs to clean up.
            strangers = [stat for stat in alive if not asked & {stat.pid, stat.parent}]
            asked.update(stat.pid for stat in strangers)
            for stat in strangers:
                send(stat, signal.SIGTERM)
        if alive:
            # A process that forks as fast as it is killed is caught by scanning without delay.
            hurried = new and now >= deadline
            poll = 0.0 if hurried else min(max(poll, _FIRST_POLL_S) * _SLOWER, _LONGEST_POLL_S)
            # The first scan after the grace comes immediately.
            wait(min(poll, deadline - now) if now < deadline else poll)
            reap()


def _kill(alive: Sequence[Stat], group: int | None) -> None:
    # While a member lives, the id of the group cannot have been reused.
    if group is not None and any(stat.group == group for stat in alive):
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for stat in alive:
        send(stat, signal.SIGKILL)
