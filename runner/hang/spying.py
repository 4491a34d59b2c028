"""Takes stacks of running processes by py-spy.

py-spy reads the memory of a process from outside. With `--nonblocking` it does so without stopping it, in about 10 ms:
a process that hangs has the same stack all the time, and one that runs is read again if its stack changed meanwhile.
Native functions need a stop by ptrace, which takes 0.1 s to 2 s on a busy host: they are asked for only where Python's
stack says nothing.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import one_line
from runner.base.processes import stat_of
from runner.base.programs import kill
from runner.hang.model import Stack, Unseen
from runner.hang.stack_files import STACK
from runner.hang.stacks import stack_in_json

NATIVE = "native stack"
_PROGRAM = "py-spy"
_AT_ONCE = 8
_TRIES = 4
_MOST_BYTES = 64 << 20
# How long a program that has a process stopped may take to finish after an interrupt, in seconds.
_PATIENCE_S = 2.0
_STOPPED_OR_BLOCKED = frozenset("TtD")
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_REFUSED = re.compile(r"permission denied|operation not permitted", re.IGNORECASE)
_NO_PYTHON = re.compile(r"python version|find a python|not a python", re.IGNORECASE)
_FAILED = "py-spy failed"


class StackTaker:
    """Takes stacks, several at once; a context that leaves no py-spy behind."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        # Symbols of native libraries take CPU time to read.
        self._native_turns = threading.BoundedSemaphore(max(1, min(_AT_ONCE, os.cpu_count() or 1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        end = time.monotonic() + _PATIENCE_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
                continue
            # Its pipes are closed by the thread that reads them.
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)

    def stack(self, pid: int, seconds: float) -> Stack | Unseen:
        """The main thread's stack; the process is not stopped. `seconds`: time limit."""
        answer: Stack | Unseen = Unseen(source=STACK, reason="no time left")
        deadline = time.monotonic() + seconds
        if not self._turns.acquire(timeout=seconds):
            return answer
        try:
            for _ in range(_TRIES):
                answer = self._taken(pid, deadline - time.monotonic(), "--nonblocking", STACK)
                # A stack that changed while it was read.
                if not (isinstance(answer, Unseen) and answer.reason.startswith(_FAILED)):
                    break
        finally:
            self._turns.release()
        return answer

    def native_stack(self, pid: int, seconds: float) -> Stack | Unseen:
        """The same with the functions of C and C++; the process is stopped while py-spy reads.

        A process that is stopped or blocked in the kernel is left alone: a stop that it cannot follow at once could
        reach it after py-spy has gone.
        """
        began = time.monotonic()
        if not self._native_turns.acquire(timeout=seconds):
            return Unseen(source=NATIVE, reason="no time left")
        try:
            if _thread_states(pid) & _STOPPED_OR_BLOCKED:
                return Unseen(source=NATIVE, reason="the process is stopped, or blocked in the kernel")
            return self._taken(pid, seconds - (time.monotonic() - began), "--native", NATIVE)
        finally:
            self._native_turns.release()

    def _taken(self, pid: int, seconds: float, option: str, source: str) -> Stack | Unseen:
        program = find_py_spy()
        if program is None:
            return Unseen(source=source, reason="py-spy is not installed; pip install py-spy")
        late = Unseen(source=source, reason="py-spy gave no answer in time")
        try:
            with self._lock:
                if self._closed:
                    return late
                # In its own session: Ctrl-C at the terminal does not end it while it has the process stopped.
                process = subprocess.Popen(
                    [program, "dump", "--pid", str(pid), "--json", option],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
                self._running.add(process)
        except OSError as error:
            return Unseen(source=source, reason=f"py-spy cannot be started: {error.strerror}")
        try:
            out, said = process.communicate(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            # The kernel releases a process when its tracer ends.
            kill(process)
            return late
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode == -signal.SIGKILL:
            return late
        if process.returncode != 0:
            return Unseen(source=source, reason=_reason(pid, said.decode(errors="replace")))
        try:
            return stack_in_json(out[:_MOST_BYTES].decode(errors="replace"))
        except InputError as error:
            return Unseen(source=source, reason=f"{_FAILED}: its answer {error}")


def find_py_spy() -> str | None:
    """Where py-spy is: beside this Python, else on PATH; None if it is not installed."""
    beside = Path(sys.executable).parent / _PROGRAM
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(_PROGRAM)


def _reason(pid: int, said: str) -> str:
    now = stat_of(pid)
    if now is None or not now.lives:
        return "the process has ended"
    if _REFUSED.search(said):
        if _is_traced(pid):
            return "another program traces the process, such as a debugger"
        scope = _yama_scope()
        why = f" (kernel.yama.ptrace_scope is {scope})" if scope not in {None, "0"} else ""
        return (
            f"no permission to read the memory of the process{why}; run this as root, or with CAP_SYS_PTRACE"
        )
    if _NO_PYTHON.search(said):
        return "py-spy finds no Python in the process"
    lines = [one_line(line).removeprefix("Error: ") for line in said.splitlines() if line.strip()]
    return f"{_FAILED}: {lines[0][:200] if lines else 'no message'}"


def _yama_scope() -> str | None:
    try:
        return read_placed(_YAMA, 64).decode(errors="replace").strip()
    except PlacedFileError:
        return None


def _is_traced(pid: int) -> bool:
    try:
        status = read_placed(Path(f"/proc/{pid}/status"), 64 << 10)
    except PlacedFileError:
        return False
    return re.search(rb"^TracerPid:\s*[1-9]", status, re.MULTILINE) is not None


def _thread_states(pid: int) -> set[str]:
    states: set[str] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(PlacedFileError, IndexError):
                states.add(read_placed(task / "stat", 4096).rpartition(b")")[2].split()[0].decode())
    return states
