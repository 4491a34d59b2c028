"""Keeps the GPUs of this process busy with matrices while something else is measured. No torch here."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.base.errors import RunbookError
from runner.base.plain import one_line
from runner.kit.children import Child, ended_by_sigterm, without_launch
from runner.kit.drill.neighbour import BUSY
from runner.kit.probe import NotApplicableError, require_torch, say
from runner.kit.usable import usable_gpus

# The first use of a GPU loads its libraries and, without persistence mode, starts it.
_START_S, _POLL_S = 180.0, 0.1
# 8192: one product takes longer than its launch on every GPU, and draws as much power as the board may.
_SIDE = 8192


@contextlib.contextmanager
def loaded_gpus() -> Iterator[int]:
    """Multiply matrices on each GPU that torch can use, in a process for each; gives their number.

    The processes are busy when the context is entered, and gone after it, also after SIGTERM or if this process dies.

    Raises:
        NotApplicableError: this host has no GPU, or none is visible.
        ModuleNotFoundError: torch is not installed.
        RunbookError: torch cannot use the GPUs, or a process does not get to run.
    """
    require_torch()
    count = usable_gpus()
    if not count:
        raise NotApplicableError("--load needs a GPU that torch can use; this host shows none")
    words = [sys.executable, "-m", "runner.kit.drill.neighbour", f"--parent={os.getpid()}", f"--side={_SIDE}"]
    with tempfile.TemporaryDirectory() as folder, ended_by_sigterm(), contextlib.ExitStack() as stack:
        outputs = [Path(folder) / f"gpu_{gpu}" for gpu in range(count)]
        environment = without_launch(os.environ)
        children = [
            stack.enter_context(Child([*words, f"--gpu={gpu}"], environment, output, grace_s=0.0))
            for gpu, output in enumerate(outputs)
        ]
        await_busy(children, outputs)
        say(f"multiplying matrices on {count} GPU{'s' * (count != 1)}")
        yield count
        require_running(children, outputs)


def await_busy(children: Sequence[Child], outputs: Sequence[Path], seconds: float = _START_S) -> None:
    """Wait until each process says that it is busy.

    Raises:
        RunbookError: one ended, or does not get to run in time.
    """
    deadline = time.monotonic() + seconds
    while not all(BUSY in _text(output) for output in outputs):
        require_running(children, outputs)
        if time.monotonic() > deadline:
            raise RunbookError(
                f"the load did not start within {seconds:g} s; is another process using the GPUs?"
            )
        time.sleep(_POLL_S)


def require_running(children: Sequence[Child], outputs: Sequence[Path]) -> None:
    """Refuse to go on with less load than was started.

    Raises:
        RunbookError: a process ended; the message has its last line.
    """
    for gpu, (child, output) in enumerate(zip(children, outputs, strict=True)):
        if child.status is not None:
            lines = _text(output).strip().splitlines() or ["no output"]
            raise RunbookError(f"the load on GPU {gpu} ended: {one_line(lines[-1])}")


def _text(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")
