"""Looks at this host in a process of its own, so that a driver that hangs in the kernel holds up nothing else.

A thread that waits in the kernel cannot be killed, and its process cannot exit: the process that asked for the GPUs is
then left behind, and the one that wants the answer goes on.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from signal import Signals
from typing import IO, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.base.programs import kill
from runner.hardware.gpus import Sight, nvml_deadline
from runner.hardware.machine import Machine, look
from runner.hardware.nvml import hung_calls

# The packages of this process, wherever they came from: the child finds the same.
_PROGRAM = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import report_sight; report_sight()"
# For the start of the child, on a busy host, in seconds.
_START_S = 20.0
# How long the child may take to exit after its answer, in seconds.
_EXIT_S = 1.0
_CHUNK = 1 << 16


class SeenApart(BaseModel):
    """This host, and the calls of NVML that did not return."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine
    hung: tuple[str, ...] = ()


class LookApart:
    """A look at this host that begins when this object is made; other work can go on until `answer`.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self) -> None:
        # -P: not from the working directory, which may be another user's.
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # An interrupt is for this process, which ends the other.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        kill(self._process, _EXIT_S)

    def answer(self, seconds: float) -> SeenApart:
        """What was seen, after at most this many seconds. Does not raise on a faulty host."""
        assert self._process.stdout
        limit = min(seconds, nvml_deadline() + _START_S)
        line = _line(self._process.stdout, time.monotonic() + limit)
        if line is None:
            return _without(f"no answer within {limit:.0f} s; the driver may be hung")
        try:
            return SeenApart.model_validate_json(line)
        except ValidationError:
            status = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(_EXIT_S)
            if status is not None and status < 0:
                return _without(f"the process that reads it was killed by {Signals(-status).name}")
            # It is not the driver that failed: this process finds the same fault, and tells it.
            return SeenApart(machine=look(), hung=hung_calls())


def _without(problem: str) -> SeenApart:
    return SeenApart(machine=look(Sight(error=f"NVML: {problem}")))


def _line(pipe: IO[bytes], deadline: float) -> bytes | None:
    """The first line of a pipe, or what is there when it is closed; None if neither comes in time."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return None
            chunk = os.read(pipe.fileno(), _CHUNK)
            if not chunk:
                break
            found += chunk
    return found


def report_sight() -> None:
    """What the child does: it looks, and writes one line."""
    seen = SeenApart(machine=look(), hung=hung_calls())
    sys.stdout.write(json.dumps(seen.model_dump(mode="json")) + "\n")
    sys.stdout.flush()
