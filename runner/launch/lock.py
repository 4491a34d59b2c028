"""One run at a time on a node: two would measure each other."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import BusyError, RunbookError

# In the system's temporary folder and not in TMPDIR, which a batch job has to itself: the node is what is shared,
# whoever runs on it. Containers that share a node can be given one file that they share too.
_PLACE = Path("/tmp/llm-runbooks.lock")  # noqa: S108 - every user has to find it; opened without following links
PLACE_VARIABLE = "RUNBOOK_LOCK"


@contextmanager
def node_lock(run_id: str, place: Path | None = None) -> Iterator[None]:
    """Hold this node for one run. The system lets go of it when the holder dies, however it dies.

    Args:
        run_id: the run's, which others are told.
        place: the lock file; what RUNBOOK_LOCK names, or the node's own, when left out.

    Raises:
        BusyError: another run holds it; the message names its process.
        RunbookError: the lock file cannot be opened.
    """
    place = place or Path(os.environ.get(PLACE_VARIABLE) or _PLACE)
    try:
        file = _open(place)
    except OSError as error:
        raise RunbookError(
            f"cannot open the node's lock {place}: {error.strerror}; remove or chmod it, or name another file "
            f"in {PLACE_VARIABLE}"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{_holder(place)} holds this node; wait for it, or end it with Ctrl-C"
            ) from error
        # The lock is what counts. On a full disk it only cannot say who holds it.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "run_id": run_id}).encode(), 0)
        yield
    finally:
        os.close(file)


def _open(place: Path) -> int:
    # Never emptied on open, since it may be another's.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    # A file that is there is opened without O_CREAT: in a sticky folder Linux refuses that on another user's.
    with suppress(FileNotFoundError):
        return os.open(place, flags)
    file = os.open(place, flags | os.O_CREAT, 0o666)
    # For every user of the node, whatever this one's umask; where another user was faster, it is theirs to do.
    with suppress(PermissionError):
        os.fchmod(file, 0o666)
    return file


def _holder(place: Path) -> str:
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
        return f"run {held['run_id']} (pid {held['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
