"""One run at a time on a node: two would measure each other."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import BusyError, RunbookError

# In the system's temporary folder, not the caller's: the node is what is shared, whoever runs on it.
_PLACE = Path(tempfile.gettempdir()) / "llm-runbooks.lock"


@contextmanager
def node_lock(run_id: str, place: Path = _PLACE) -> Iterator[None]:
    """Hold this node for one run. The system lets go of it when the holder dies, however it dies.

    Raises:
        BusyError: another run holds it; the message names its process.
        RunbookError: the lock file cannot be opened.
    """
    try:
        # Readable and writable for every user of the node; never emptied on open, since it may be another's.
        file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RunbookError(
            f"cannot open the node's lock {place}: {error.strerror}; remove or chmod it"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{_holder(place)} holds this node; wait for it, or end it with Ctrl-C"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "run_id": run_id}).encode(), 0)
        yield
    finally:
        os.close(file)


def _holder(place: Path) -> str:
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
        return f"run {held['run_id']} (pid {held['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
