"""The node lock: one run at a time on a node, because concurrent runs disturb each other's measurements."""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.base.errors import BusyError, RunbookError
from runner.base.processes import stat_of
from runner.run.holders import holders

# In /tmp and not in TMPDIR, which may be private to a batch job: all users of a node must use the same file. For
# containers that share a node, the variable names a shared file.
_PLACE = Path("/tmp/llm-runbooks.lock")  # noqa: S108 - every user must find it; opened without following links
PLACE_VARIABLE = "RUNBOOK_LOCK"
_LONGEST_NOTE = 4096
_MOST_NAMED = 5
# Blocks may use low descriptor numbers for their own files, which would close the lock.
_HIGH = 200

_held: list[int] = []


def held() -> tuple[int, ...]:
    """Descriptors of the locks that this process holds. Processes of a step inherit them, and so hold the node too."""
    return tuple(_held)


@contextmanager
def node_lock(run_id: str, place: Path | None = None) -> Iterator[None]:
    """Hold this node for one run.

    The lock belongs to an open file that the processes of the run's steps inherit: if the runner is killed, or a step's
    process cannot be killed, the node becomes free when the last of them ends.

    Args:
        run_id: id of the run, shown to others.
        place: the lock file; default: the value of RUNBOOK_LOCK, else the node's lock file.

    Raises:
        BusyError: another run holds it; the message names its processes.
        RunbookError: the lock file cannot be opened or locked.
    """
    place = place or Path(os.environ.get(PLACE_VARIABLE) or _PLACE)
    try:
        file = _open(place)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RunbookError(
            f"cannot open the node's lock file {place}: {why}; remove or chmod it, or name another file "
            f"in {PLACE_VARIABLE}"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(_busy(file)) from error
        # Only the lock matters. On a full disk the file cannot name its holder.
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
    # Never truncated on open, because it may belong to another run; never blocking, because it may be a pipe.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    # An existing file is opened without O_CREAT: in a sticky folder Linux refuses O_CREAT for another user's file.
    with suppress(FileNotFoundError):
        _demand_regular(place.lstat().st_mode)
        return _lifted(os.open(place, flags))
    file = os.open(place, flags | os.O_CREAT, 0o666)
    # Writable for every user of the node, regardless of the umask; only the owner can set this.
    with suppress(PermissionError):
        os.fchmod(file, 0o666)
    return _lifted(file)


def _lifted(file: int) -> int:
    """The same open file with a high descriptor number; only for a regular file."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        _demand_regular(os.fstat(file).st_mode)
        # If the limit of descriptors is too low, keep the low number.
        with suppress(OSError):
            return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        stack.pop_all()
        return file


def _demand_regular(mode: int) -> None:
    # Opening a device may already have an effect, so this is checked before and after opening.
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
                f"{run} holds this node: its runner is gone, but {named} of its steps still run; wait for them, or "
                "kill them with kill -KILL"
            )
        return f"{run} holds this node: {named}; wait for it, or terminate it"
    if over:
        return (
            f"{run} holds this node: its runner (pid {runner}) is gone, but processes of its steps that this user "
            "cannot see still run; list them as root with lsof"
        )
    who = run if runner is None else f"{run} (pid {runner})"
    return f"{who} holds this node; wait for it, or end it with Ctrl-C"


def _note(file: int) -> tuple[int, str] | None:
    """The holder that the lock file names: pid and run id; None if the content is invalid."""
    try:
        # Any user can write to the file: its content may be of any length, with any nesting.
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
