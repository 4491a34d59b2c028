"""A program in its own session, which is ended with every process that it started.

Compile workers, compilers and ranks are grandchildren, and some start their own sessions, so neither the list of
children nor a process group contains all of them. All of them inherit the environment, in which a token marks them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from runner.base.processes import (
    Cleared,
    Stat,
    end_all,
    every,
    in_session,
    stat_of,
    with_descendants,
    with_mark,
)
from runner.base.programs import kill

TOKEN = "RUNBOOK_GUARD"  # noqa: S105 - the name of an environment variable, not a secret
GRACE_S = 1.0
# How long killed processes may take to disappear, in seconds; later they are reported as left.
_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Child:
    """A program that runs within the context: entering starts it, leaving ends it with all that it started.

    That holds after an error or a signal too: with `ended_by_sigterm`, SIGTERM and Ctrl-C leave nothing behind. They
    get SIGTERM, and SIGKILL after a grace; a second signal meanwhile kills them at once.

    Args:
        words: the program and its arguments; its standard input is empty.
        environment: its complete environment, to which the token is added.
        output: the file for its output and its errors.
        grace_s: seconds between SIGTERM and SIGKILL.

    Attributes:
        cleared: after the context, what had to be ended and what survived.

    Raises:
        OSError: entering the context: it cannot be started.
    """

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], output: Path, grace_s: float = GRACE_S
    ) -> None:
        token = uuid.uuid4().hex
        self._words, self._environment = words, {**environment, TOKEN: token}
        self._output, self._grace_s, self._mark = output, grace_s, f"{TOKEN}={token}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader: Stat | None = None
        self.cleared = Cleared()

    def __enter__(self) -> Self:
        try:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    self._words,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._leader = stat_of(self.pid)
        except BaseException:
            # A signal may arrive when the program is already running.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.cleared = self._end(self._grace_s)
        except BaseException:
            self._end(0.0)
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, minus the number of a signal that killed it; None while it runs."""
        assert self._process
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Wait at most this long; returns whether the program, not all that it started, has ended."""
        assert self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))
        return self._process.returncode is not None

    def alive(self) -> list[Stat]:
        """The living processes of the program."""
        among = list(every())
        found = with_mark(self._mark, among)
        if self._leader is not None:
            found += in_session(self._leader.pid, self._leader.started, among)
        return with_descendants(stat.pid for stat in found)

    def _end(self, grace_s: float) -> Cleared:
        group = None if self._process is None else self._process.pid
        cleared = end_all(self.alive, grace_s, _PATIENCE_S, group=group)
        if self._process is not None:
            kill(self._process)
        return cleared


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM, and the SIGHUP of a terminal that closes, unwind the stack: children and folders go first."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    # Under nohup SIGHUP is ignored, and stays ignored.
    heeded = [one for one in _ENDING if signal.getsignal(one) is not signal.SIG_IGN]
    before = [(one, signal.signal(one, leave)) for one in heeded]
    try:
        yield
    finally:
        for one, earlier in before:
            signal.signal(one, earlier)


def die_with_parent(parent: int) -> bool:
    """In a child: make the kernel kill this process when its parent ends; False if the parent has already ended.

    SIGKILL of the parent must not leave a compile running.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def without_launch(environment: Mapping[str, str], kept: Sequence[str] = ()) -> dict[str, str]:
    """The environment without the variables that torchrun sets, which would let a child join its parent's ranks.

    Args:
        environment: of this process.
        kept: the variables of torchrun that the child needs.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in kept or (name not in _LAUNCH and not name.startswith("TORCHELASTIC_"))
    }
