"""A running block: reads its output while it waits for its end, and terminates what does not end by itself."""

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from enum import StrEnum
from typing import IO, Self

from runner.base.processes import Cleared, stat_of
from runner.run.interrupts import interrupts_let_in
from runner.run.leftovers import ProcessTree
from runner.run.output import OutputWindow

GRACE_S = 2.0
_READ_BYTES = 1 << 20
# Interval of the progress callback for a running block, in seconds.
_SHOWN_EVERY_S = 1.0
# After a second Ctrl-C: how long to wait for killed processes that are still there, in seconds.
_IMPATIENCE_S = 5.0
# Poll interval for the end of the shell if there is no pidfd (not Linux, or an old kernel), in seconds.
_POLL_S = 0.05
# Assumed capacity of a pipe if the system does not report it.
_PIPE_BYTES = 1 << 20

# Shells that could not be killed; kept so that they are reaped if they end later.
_stuck: "list[subprocess.Popen[bytes]]" = []


class BlockEnding(StrEnum):
    """How a block ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not_started"


class RunningBlock:
    """The shell of a block with its pipes; a context manager that closes them."""

    def __init__(self, process: "subprocess.Popen[bytes]", tree: ProcessTree) -> None:
        self._process, self._tree = process, tree
        self._selector = selectors.DefaultSelector()
        self.stdout, self.stderr = OutputWindow(), OutputWindow()
        self._pidfd: int | None = None

    def __enter__(self) -> Self:
        assert self._process.stdout
        assert self._process.stderr
        for pipe, window in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, window)
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(self._process.pid)
            self._selector.register(self._pidfd, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()
        if self._process.returncode is None:
            _stuck.append(self._process)
        self._tree.ends()

    def run(
        self,
        began: float,
        timeout: float,
        still_running: Callable[[float], None],
        stopped: Callable[[], bool],
    ) -> BlockEnding:
        """Read until the shell ends, the deadline passes, or Ctrl-C; interrupts are enabled from here on.

        `began` is in monotonic seconds; the deadline is `timeout` seconds later.
        """
        told = 0.0
        try:
            with interrupts_let_in():
                while self._process.poll() is None:
                    passed = time.monotonic() - began
                    if passed >= timeout:
                        return BlockEnding.TIMEOUT
                    if stopped():
                        return BlockEnding.INTERRUPTED
                    if passed - told >= _SHOWN_EVERY_S:
                        told = passed
                        still_running(passed)
                    self._read(min(timeout - passed, told + _SHOWN_EVERY_S - passed))
        except KeyboardInterrupt:
            return BlockEnding.INTERRUPTED
        return BlockEnding.EXITED

    def finish(self, ending: BlockEnding, patience_s: float) -> tuple[BlockEnding, Cleared]:
        """Terminate all remaining processes and read the rest of the output.

        Args:
            ending: how the block ended so far.
            patience_s: how long killed processes may take to disappear, in seconds.

        Returns:
            How the block ended, `interrupted` after a Ctrl-C meanwhile, so that nothing is started after it; and what
            happened to its processes, including the shell.
        """
        grace, shell_ended = GRACE_S, ending is not BlockEnding.EXITED
        while True:
            try:
                with interrupts_let_in():
                    cleared = self._end(grace, patience_s)
            except KeyboardInterrupt:
                # A second Ctrl-C: kill the rest without grace.
                ending, grace, patience_s = BlockEnding.INTERRUPTED, 0.0, min(patience_s, _IMPATIENCE_S)
            else:
                self._read_rest()
                return ending, Cleared(cleared.ended + shell_ended, cleared.left)

    def _end(self, grace: float, patience_s: float) -> Cleared:
        if self._process.poll() is None:
            self._signal_group(signal.SIGTERM)
            self._wait(grace)
        give_up = time.monotonic() + patience_s
        if self._process.poll() is None:
            self._signal_group(signal.SIGKILL)
            self._wait(patience_s)
        left = max(0.0, give_up - time.monotonic())
        cleared = self._tree.end(grace, left, self._read)
        shell = None if self._process.poll() is not None else stat_of(self._process.pid)
        return cleared if shell is None else Cleared(cleared.ended, (shell, *cleared.left))

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def _signal_group(self, number: signal.Signals) -> None:
        # The shell has not been reaped, so its process group id cannot have been reused.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self, seconds: float) -> None:
        """Wait at most this long for output or the end of the shell, and read what is available."""
        if self._pidfd is None or self._process.returncode is not None:
            seconds = min(seconds, _POLL_S)
        if not self._selector.get_map():
            time.sleep(min(seconds, _POLL_S))
            return
        for key, _ in self._selector.select(seconds):
            if key.fd == self._pidfd:
                self._selector.unregister(self._pidfd)
                continue
            self._take(key.fileobj, key.data)

    def _take(self, pipe: "IO[bytes] | selectors._FileObject", window: OutputWindow) -> int:  # type: ignore[name-defined]
        """One read of a pipe: the number of bytes, 0 if nothing is available."""
        try:
            data = os.read(pipe if isinstance(pipe, int) else pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._selector.unregister(pipe)
            return 0
        window.add(data)
        return len(data)

    def _read_rest(self) -> None:
        """Read the rest of the pipes, at most one pipe capacity: a surviving process may keep writing."""
        for key in list(self._selector.get_map().values()):
            if key.fd == self._pidfd:
                continue
            try:
                room = fcntl.fcntl(key.fd, fcntl.F_GETPIPE_SZ)
            except (OSError, AttributeError):
                room = _PIPE_BYTES
            while room > 0 and (took := self._take(key.fileobj, key.data)):
                room -= took
