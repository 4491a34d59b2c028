"""Runs what asks the driver in a forked process: a call that hangs in the kernel keeps no probe from ending.

A process with a thread that waits in the kernel cannot exit, so whoever waits for it waits for ever. The probe itself
therefore makes no such call: its child does, and is left behind if it cannot exit. A fork takes some milliseconds, and
a new process would import everything again.
"""

import contextlib
import os
import pickle
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import TypeVar

from runner.base.errors import RunbookError
from runner.kit.children import die_with_parent
from runner.kit.probe import NotApplicableError

_Answer = TypeVar("_Answer")
_LENGTH = struct.Struct("!Q")
# How long the child may take to exit after its answer, in seconds.
_EXIT_S = 1.0
_POLL_S = 0.005


def answer_apart(work: Callable[[], _Answer]) -> _Answer:
    """Return what `work` returns, or raise what it raises, from a child process.

    A process that has several threads runs `work` itself: a fork of it could deadlock.

    Raises:
        RunbookError: the child was killed, by a fault of the vendor's library for example.
    """
    if _threads() != 1:
        return work()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os.close(reading)
        # A signal ends the parent alone: the child would go on for as long as `--watch` says, with its output open.
        if not die_with_parent(parent):
            os._exit(0)
        _answer(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        # Not to its end: a child that cannot exit keeps the pipe open.
        head = pipe.read(_LENGTH.size)
        data = pipe.read(*_LENGTH.unpack(head)) if len(head) == _LENGTH.size else b""
    status = _reaped(child)
    if not data:
        killed = status is not None and os.WIFSIGNALED(status)
        how = (
            f"was killed by {Signals(os.WTERMSIG(status or 0)).name}" if killed else "ended without an answer"
        )
        raise RunbookError(
            f"the process that reads the GPUs {how}; check dmesg, and the driver with nvidia-smi"
        )
    good, answer = pickle.loads(data)  # noqa: S301 - of this program's own child
    if good:
        return answer  # type: ignore[no-any-return]
    raise answer


def _threads() -> int:
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 2


def _answer(work: Callable[[], object], writing: int) -> None:
    """In the child: work, write the answer, and exit without what the parent's exit does."""
    try:
        answer: tuple[bool, object] = (True, work())
    except BaseException as error:  # noqa: BLE001 - raised in the parent
        if not isinstance(error, RunbookError | NotApplicableError):
            # A traceback is not pickled.
            error.add_note(traceback.format_exc())
        answer = (False, error)
    try:
        data = pickle.dumps(answer)
    except Exception as error:  # noqa: BLE001 - as above
        data = pickle.dumps((False, RunbookError(f"{type(error).__name__}: {error}")))
    with contextlib.suppress(OSError), open(writing, "wb") as pipe:
        pipe.write(_LENGTH.pack(len(data)) + data)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reaped(child: int) -> int | None:
    """Its wait status; None if it does not exit."""
    until = time.monotonic() + _EXIT_S
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(_POLL_S)
    return None
