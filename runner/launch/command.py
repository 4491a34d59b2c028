"""Runs one bash block: its own session, a deadline, bounded output, and nothing left alive afterwards."""

import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import IO, Self

from runner.launch.leftovers import TOKEN, Brood
from runner.launch.output import Captured, Window

GRACE_S = 2.0
_READ_BYTES = 1 << 20
# How often, in seconds, whoever shows a running block is told that it still runs.
_SHOWN_EVERY_S = 1.0
# Without a pidfd (not Linux, or an old kernel) the shell's end is looked for this often.
_POLL_S = 0.05
_LOST = (
    "its environment cannot be carried on: too large to hand to a program, or the temporary folder is full"
)
# What bash itself sets or changes; carrying it on would say something untrue of the next block.
_OF_BASH = ("_", "SHLVL", "PWD", "OLDPWD", TOKEN)


class Ending(StrEnum):
    """How a block came to its end."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not_started"


@dataclass(frozen=True)
class CommandResult:
    """One block that ran.

    Attributes:
        exit_status: bash's; negative for a signal; None where it did not end by itself.
        environment: the complete environment after a block that ended with 0; None otherwise.
        processes_ended: processes that outlived the block, or its deadline, and were ended.
        problem: why the block could not be started, or why what it exported cannot be carried on.
    """

    ending: Ending
    exit_status: int | None
    stdout: Captured
    stderr: Captured
    duration_s: float
    environment: Mapping[str, str] | None
    processes_ended: int
    problem: str | None = None


def run_block(
    command: str,
    *,
    environment: Mapping[str, str],
    timeout: float,
    cwd: Path,
    still_running: Callable[[float], None] = lambda _seconds: None,
) -> CommandResult:
    """Run a block under `bash -euo pipefail` with no standard input.

    On the deadline (seconds), and on Ctrl-C, the block's group gets SIGTERM, a short grace and SIGKILL, and so does
    every other process that came of it. Processes that outlive a block that ended by itself are ended too.

    `still_running` is told about every second for how many seconds the block has run, by the thread that waits.
    """
    bash = shutil.which("bash", path=environment.get("PATH", os.defpath)) or shutil.which("bash")
    token = uuid.uuid4().hex
    try:
        temporary = tempfile.TemporaryDirectory(prefix="runbook-block-", ignore_cleanup_errors=True)
    except OSError as error:
        return not_started(f"no temporary folder can be made: {error}")
    with temporary as folder, _interrupts_held() as let_interrupts:
        after = Path(folder) / "environment"
        began = time.monotonic()
        brood = Brood(token)
        try:
            process = subprocess.Popen(
                [bash or "bash", "-euo", "pipefail", "-c", _script(command, after)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment, TOKEN: token},
                cwd=cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return not_started(str(error))
        brood.starts(process.pid)
        with _Block(process, brood) as block:
            ending = block.run(began, timeout, let_interrupts, still_running)
            ending, ended = block.finish(ending)
        duration = time.monotonic() - began
        status = process.returncode if ending is Ending.EXITED else None
        carried = _read_environment(after, environment) if status == 0 else None
        problem = _LOST if carried is not None and not carried else None
    return CommandResult(
        ending,
        status,
        block.stdout.captured(),
        block.stderr.captured(),
        duration,
        carried or None,
        ended,
        problem,
    )


def not_started(problem: str) -> CommandResult:
    """The result of a block that never ran, and why."""
    nothing = Captured("", 0)
    return CommandResult(Ending.NOT_STARTED, None, nothing, nothing, 0.0, None, 0, problem)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """Keep Ctrl-C and its like waiting until the function it gives is called, or the end.

    One that came between the start of a shell and the first look at it would leave the shell running for good.
    """
    before: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {}
    held: list[int] = []

    def let_go() -> None:
        while before:
            signal.signal(*before.popitem())
        while held:
            signal.raise_signal(held.pop())

    # Python runs handlers in the main thread only; elsewhere there is nothing to hold.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield let_go
    finally:
        let_go()


class _Block:
    """A running block: reads what it prints while it waits for its end."""

    def __init__(self, process: "subprocess.Popen[bytes]", brood: Brood) -> None:
        self._process, self._brood = process, brood
        self._selector = selectors.DefaultSelector()
        self.stdout, self.stderr = Window(), Window()
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
        self._brood.ends()

    def run(
        self,
        began: float,
        timeout: float,
        let_interrupts: Callable[[], None],
        still_running: Callable[[float], None],
    ) -> Ending:
        """Read until the shell ends, the deadline passes, or Ctrl-C, which is let in from here.

        It began at a moment in monotonic seconds and has so many seconds from there.
        """
        told = 0.0
        try:
            let_interrupts()
            while self._process.poll() is None:
                passed = time.monotonic() - began
                if passed >= timeout:
                    return Ending.TIMEOUT
                if passed - told >= _SHOWN_EVERY_S:
                    told = passed
                    still_running(passed)
                self._read(min(timeout - passed, told + _SHOWN_EVERY_S - passed))
        except KeyboardInterrupt:
            return Ending.INTERRUPTED
        return Ending.EXITED

    def finish(self, ending: Ending) -> tuple[Ending, int]:
        """End whatever still lives and take the last of the output.

        Returns:
            How the block ended, which a Ctrl-C meanwhile makes `interrupted`, so that nothing is started after it; and
            how many processes had to be ended.
        """
        grace, shell_ended = GRACE_S, ending is not Ending.EXITED
        while True:
            try:
                ended = self._end(grace)
                self._read_rest()
            except KeyboardInterrupt:
                # It means now: what is left is killed without grace.
                ending, grace = Ending.INTERRUPTED, 0.0
            else:
                return ending, ended + shell_ended

    def _end(self, grace: float) -> int:
        if self._process.poll() is None:
            self._signal_group(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while self._process.poll() is None and (left := deadline - time.monotonic()) > 0:
                self._read(left)
        if self._process.poll() is None:
            self._signal_group(signal.SIGKILL)
        while self._process.poll() is None:
            self._read(_POLL_S)
        return self._brood.end(grace, self._read)

    def _signal_group(self, number: signal.Signals) -> None:
        # The shell has not been reaped, so its group's number cannot belong to anyone else yet.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self, seconds: float) -> None:
        """Wait at most that long for output or the shell's end, and take what is there."""
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

    def _take(self, pipe: "IO[bytes] | selectors._FileObject", window: Window) -> bool:  # type: ignore[name-defined]
        """One read of a pipe; False where it has nothing more to give at present."""
        try:
            data = os.read(pipe if isinstance(pipe, int) else pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(pipe)
            return False
        window.add(data)
        return True

    def _read_rest(self) -> None:
        """What is still in the pipes. Nobody of the block is left to write, so this ends."""
        for key in list(self._selector.get_map().values()):
            if key.fd != self._pidfd:
                while self._take(key.fileobj, key.data):
                    pass


def _script(command: str, after: Path) -> str:
    """The block, with a trap before it, on its first line so that bash's line numbers stay the block's own.

    The trap leaves the exit status alone and writes the environment only after success. A block that sets its own
    EXIT trap replaces this one, so the environment is written once more behind the block. What cannot be written
    whole (too large for a process to take, no space left) leaves an empty file.
    """
    env = shutil.which("env") or "/usr/bin/env"
    place = shlex.quote(str(after))
    write = f"{shlex.quote(env)} -0 2>/dev/null >| {place} || : >| {place} || :"
    trap = f"if [ $? -eq 0 ] && [ ! -s {place} ]; then {write}; fi"
    return f"trap {shlex.quote(trap)} EXIT; {command}\n{write}\n"


def _read_environment(path: Path, before: Mapping[str, str]) -> dict[str, str] | None:
    """The environment after a block; None where its shell was replaced (`exec`), empty where it was lost."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data:
        return {}
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    found = {name: value for name, equals, value in pairs if equals and name not in _OF_BASH}
    return found | {name: before[name] for name in _OF_BASH if name in before and name != TOKEN}
