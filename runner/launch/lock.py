"""One run at a time on a node: two would measure each other."""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import BusyError, RunbookError
from runner.launch.holders import holders
from runner.launch.processes import stat_of

# In the system's temporary folder and not in TMPDIR, which a batch job has to itself: the node is what is shared,
# whoever runs on it. Containers that share a node can be given one file that they share too.
_PLACE = Path("/tmp/llm-runbooks.lock")  # noqa: S108 - every user has to find it; opened without following links
PLACE_VARIABLE = "RUNBOOK_LOCK"
_LONGEST_NOTE = 4096
_MOST_NAMED = 5
# Blocks may use low numbers for files of their own, and would close the lock by it.
_HIGH = 200

_held: list[int] = []


def held() -> tuple[int, ...]:
    """Descriptors of the locks that this process holds. What it starts for a step gets them, and so holds the node."""
    return tuple(_held)


@contextmanager
def node_lock(run_id: str, place: Path | None = None) -> Iterator[None]:
    """Hold this node for one run.

    The lock belongs to an open file that the run's steps have open too: where the runner is killed, and where a
    step's process cannot be ended, the node is free when the last of them is gone.

    Args:
        run_id: the run's, which others are told.
        place: the lock file; what RUNBOOK_LOCK names, or the node's own, when left out.

    Raises:
        BusyError: another run holds it; the message names its processes.
        RunbookError: the lock file cannot be opened, or is no file that can be locked.
    """
    place = place or Path(os.environ.get(PLACE_VARIABLE) or _PLACE)
    try:
        file = _open(place)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RunbookError(
            f"cannot open the node's lock {place}: {why}; remove or chmod it, or name another file "
            f"in {PLACE_VARIABLE}"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(_busy(file)) from error
        # The lock is what counts. On a full disk it only cannot say who holds it.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "run_id": run_id}).encode(), 0)
        _held.append(file)
        try:
            yield
        finally:
            _held.remove(file)
    finally:
        os.close(file)


def _open(place: Path) -> int:
    # Never emptied on open, since it may be another's; never waited for, since it may be a pipe.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    # A file that is there is opened without O_CREAT: in a sticky folder Linux refuses that on another user's.
    with suppress(FileNotFoundError):
        _demand_regular(place.lstat().st_mode)
        return _lifted(os.open(place, flags))
    file = os.open(place, flags | os.O_CREAT, 0o666)
    # For every user of the node, whatever this one's umask; where another user was faster, it is theirs to do.
    with suppress(PermissionError):
        os.fchmod(file, 0o666)
    return _lifted(file)


def _lifted(file: int) -> int:
    """The same open file under a high number; only a regular one."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        _demand_regular(os.fstat(file).st_mode)
        # Where so many descriptors are not allowed, the low number has to do.
        with suppress(OSError):
            return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        stack.pop_all()
        return file


def _demand_regular(mode: int) -> None:
    # Opening a device may already do something, so this is asked before and after.
    if stat.S_ISLNK(mode):
        raise ValueError("it is a symbolic link")
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file")


def _busy(file: int) -> str:
    note = _note(file)
    run = "another run" if note is None else f"run {note[1]}"
    runner = None if note is None else note[0]
    living = holders(file)
    over = runner is not None and (runner == os.getpid() or stat_of(runner) is None)
    if living and all(one.pid != runner for one in living):
        named = ", ".join(map(str, living[:_MOST_NAMED]))
        named += f" and {len(living) - _MOST_NAMED} more" if len(living) > _MOST_NAMED else ""
        if over:
            return (
                f"{run} holds this node: its runner is gone, but {named} of its steps live on; wait for them, or end "
                "them with kill -KILL"
            )
        return f"{run} holds this node: {named}; wait for it, or end it"
    if over:
        return (
            f"{run} holds this node: its runner (pid {runner}) is gone, but processes of its steps that this user "
            "cannot see live on; root sees them with lsof"
        )
    who = run if runner is None else f"{run} (pid {runner})"
    return f"{who} holds this node; wait for it, or end it with Ctrl-C"


def _note(file: int) -> tuple[int, str] | None:
    """Who wrote its name into the lock file: pid and run id; None where it says nothing that can be believed."""
    try:
        # Whoever can write to the file decides what it says: of any length, nested without end.
        held = json.loads(os.pread(file, _LONGEST_NOTE, 0))
        pid, run_id = held["pid"], held["run_id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if (
        type(pid) is not int
        or not isinstance(run_id, str)
        or not run_id.isascii()
        or not run_id.isprintable()
    ):
        return None
    return pid, run_id[:100]
