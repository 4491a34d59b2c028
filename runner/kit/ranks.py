"""Ranks started by torchrun, each with a line to this process. No torch here.

torchrun tells its caller little about which rank failed, and starts each rank in its own session, which a signal to
torchrun's process group does not reach. So every rank connects to the calling process (a Unix socket) before it
imports torch. The caller then sends commands, receives the answers, sees at once which rank has ended, and knows the
process ids.
"""

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from runner.base.errors import InputError, LateRankError, RankError
from runner.base.programs import kill

LINE_VARIABLE = "RUNBOOK_RANK_LINE"
SOLE_VARIABLE = "RUNBOOK_SOLE_RANK"
_END_GRACE_S = 10.0
_POLL_S = 0.2
_LAST_WORD_S = 1.0
_LARGEST_PORT = 65535
# Variables of an earlier launch; torchrun sets its own.
_LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLine:
    """A rank's end of the connection: one JSON object per line, both ways."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(os.environ[LINE_VARIABLE])
        self._lines = self._socket.makefile("r", encoding="utf-8")
        # A process started without torchrun is the only rank; a RANK in its environment is a leftover.
        self.rank = int(os.environ.get(SOLE_VARIABLE) or os.environ["RANK"])
        self.send({"rank": self.rank, "pid": os.getpid()})

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message to the process that started the ranks."""
        self._socket.sendall((json.dumps(message) + "\n").encode())

    def mark(self, where: str) -> None:
        """Report the progress of this rank, so that a rank that falls behind can be named."""
        self.send({"at": where})

    def commands(self) -> Iterator[dict[str, Any]]:
        """Commands until the caller closes the connection or ends."""
        for line in self._lines:
            yield json.loads(line)


class _Member:
    """The caller's end of one rank's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.rank = -1
        self.pid = -1
        self.inbox: list[dict[str, Any]] = []
        self.marks: list[str] = []
        self._pending = b""

    def read(self) -> bool:
        """Read the available data; False if the connection is closed."""
        try:
            data = self.connection.recv(1 << 20)
        except ConnectionError:
            data = b""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for message in map(json.loads, lines):
            if "at" in message:
                self.marks.append(message["at"])
            else:
                self.inbox.append(message)
        return bool(data)

    def state(self) -> str:
        """State of the process, from the kernel."""
        try:
            return psutil.Process(self.pid).status()
        except psutil.Error:
            return "gone"


class World:
    """Ranks that run one program and receive commands.

    Args:
        program: the Python arguments of each rank, such as `["-m", "runner.kit.collectives_worker"]`.
        ranks: number of ranks that torchrun starts; None for one process without torchrun, in the given environment.
        environment: complete environment of the ranks; torchrun's own variables are removed for torchrun.
        deadline: `time.monotonic()` after which a missing answer is an error.
        label: name of this world in messages.
        port: rendezvous port of the ranks; None lets torchrun choose a free one.

    Raises:
        InputError: the port is in use.
        ModuleNotFoundError: torch is not installed.
    """

    def __init__(
        self,
        program: Sequence[str],
        ranks: int | None,
        environment: Mapping[str, str],
        deadline: float,
        label: str = "",
        port: int | None = None,
    ) -> None:
        if importlib.util.find_spec("torch") is None:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        if port is not None:
            refuse_taken(port)
        self._ranks, self._starter = ranks or 1, "torchrun" if ranks else "the process"
        self._deadline, self._label = deadline, f" ({label})" if label else ""
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        folder = Path(self._folder.name)
        self._output = folder / "output"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / "line"))
        self._listener.listen(self._ranks)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._members: dict[int, _Member] = {}
        command = [sys.executable, *program]
        own = dict(environment) | {SOLE_VARIABLE: "0"}
        if ranks is not None:
            meet = ("--standalone",) if port is None else ("--master-addr=127.0.0.1", f"--master-port={port}")
            torchrun = ("torch.distributed.run", *meet, "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}")
            command = [sys.executable, "-m", *torchrun, *program]
            own = _for_ranks(environment)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=own | {LINE_VARIABLE: str(folder / "line")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._close()
        finally:
            self._end()

    def ask(
        self, command: Mapping[str, object] | None, doing: str, deadline: float | None = None
    ) -> list[dict[str, Any]]:
        """Send every rank the same command and collect their answers, in order of rank.

        Args:
            command: the command; None waits for the message that ranks send when they are ready.
            doing: the activity, for messages: `while <doing>`.
            deadline: `time.monotonic()` of this answer, if earlier than the world's.

        Raises:
            LateRankError: a rank did not answer by the deadline; the message names it.
            RankError: a rank died or failed; the message names it.
        """
        latest = self._deadline if deadline is None else min(deadline, self._deadline)
        while len(self._members) < self._ranks:
            self._receive(doing, latest)
        if command is not None:
            line = (json.dumps(command) + "\n").encode()
            for rank, member in self._members.items():
                try:
                    member.connection.sendall(line)
                except OSError as error:
                    raise self._lost(rank, doing) from error
        while not all(member.inbox for member in self._members.values()):
            self._receive(doing, latest)
        return [self._members[rank].inbox.pop(0) for rank in range(self._ranks)]

    def _receive(self, doing: str, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._late(doing)
        ready = [key.fileobj for key, _ in self._selector.select(min(left, _POLL_S))]
        if not ready and self._process.poll() is not None:
            raise RankError(f"{self._starter}{self._label} ended while {doing}{self._last_error()}")
        heard = [member for member in self._members.values() if member.connection in ready]
        closed = [member for member in heard if not member.read()]
        failed = {
            member.rank: message["error"]
            for member in heard
            for message in member.inbox
            if "error" in message
        }
        # A rank that died without a message takes precedence over the errors that this causes in others.
        silent = [member.rank for member in closed if member.rank not in failed]
        if failed and not silent:
            silent = self._silently_dead(set(failed))
        if silent:
            raise self._lost(silent[0], doing)
        for rank, error in failed.items():
            raise RankError(f"rank {rank}{self._label} failed while {doing}: {error}")
        if self._listener in ready:
            self._accept()

    def _silently_dead(self, complaining: set[int]) -> list[int]:
        """Ranks whose connection closes shortly after: errors that a dead rank causes may arrive before its end."""
        deadline = time.monotonic() + _LAST_WORD_S
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                member = next((one for one in self._members.values() if one.connection is key.fileobj), None)
                if member is None or member.read():
                    continue
                self._selector.unregister(member.connection)
                if member.rank not in complaining and not any("error" in one for one in member.inbox):
                    return [member.rank]
        return []

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        member = _Member(connection)
        # A rank sends its greeting immediately after it connects.
        connection.settimeout(max(0.1, self._deadline - time.monotonic()))
        greeting = b""
        while not greeting.endswith(b"\n"):
            try:
                byte = connection.recv(1)
            except OSError:
                byte = b""
            if not byte:
                raise RankError(f"a rank{self._label} died at its start{self._last_error()}")
            greeting += byte
        hello = json.loads(greeting)
        member.rank, member.pid = hello["rank"], hello["pid"]
        connection.settimeout(None)
        self._members[member.rank] = member
        self._selector.register(connection, selectors.EVENT_READ)

    def _lost(self, rank: int, doing: str) -> RankError:
        return RankError(
            f"rank {rank}{self._label} died while {doing} (killed, out of memory, or crashed){self._last_error()}"
        )

    def _late(self, doing: str) -> LateRankError:
        absent = [rank for rank in range(self._ranks) if rank not in self._members]
        missing = sorted(rank for rank, member in self._members.items() if not member.inbox)
        stopped = [rank for rank in missing if self._members[rank].state() == psutil.STATUS_STOPPED]
        furthest = max((len(member.marks) for member in self._members.values()), default=0)
        behind = [rank for rank in missing if len(self._members[rank].marks) < furthest]
        if absent:
            what = f"{_named(absent)} never joined"
        elif stopped:
            what = f"{_named(stopped)} hung (process stopped)"
        elif behind:
            last = [mark for rank in behind for mark in self._members[rank].marks[-1:]]
            what = f"{_named(behind)} {'fell behind, last seen ' + last[0] if last else 'never joined'}"
        else:
            states = ", ".join(f"{rank}: {self._members[rank].state()}" for rank in missing)
            what = f"{_named(missing)} did not answer (process states {states})"
        return LateRankError(f"{what}{self._label} by the deadline, while {doing}; all ranks were killed")

    def _last_error(self) -> str:
        text = self._output.read_bytes()[-20_000:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        # The last line that names an exception is more useful than torchrun's summary, which comes after it.
        causes = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
        return f"; last error: {causes[-1][-300:]}" if causes else ""

    def dismiss(self) -> None:
        """Close the connections, which ends the ranks' loops, without waiting for them; leaving the context waits."""
        for member in self._members.values():
            with contextlib.suppress(OSError):
                member.connection.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        """Dismiss the ranks, and wait until torchrun sees their end."""
        self.dismiss()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_GRACE_S)

    def _end(self) -> None:
        """Kill all remaining processes, ranks first: each has its own session."""
        if self._process.poll() is None:
            # While stopped, torchrun can neither start another rank nor reap one whose id is about to be used.
            torchrun = psutil.Process(self._process.pid)
            with contextlib.suppress(psutil.Error):
                torchrun.suspend()
                for child in torchrun.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
        kill(self._process)
        for member in self._members.values():
            member.connection.close()
        self._selector.close()
        self._listener.close()
        self._folder.cleanup()


def refuse_taken(port: int) -> None:
    """Fail early if a port is in use: ranks would connect to another program and wait for each other.

    Raises:
        InputError: the port is in use, or not a valid port.
    """
    if not 1 <= port <= _LARGEST_PORT:
        raise InputError(f"{port} is not a port; use 1 to {_LARGEST_PORT}")
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} ({error.strerror}); ss -ltnp shows who uses it; choose another, or omit"
            " --port for a free one"
        ) from error


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind the stack, so that ranks end with the process that started them."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _for_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in _LAUNCH_VARIABLES and not name.startswith("TORCHELASTIC_")
    }


def _named(ranks: Sequence[int]) -> str:
    listed = ", ".join(str(rank) for rank in ranks)
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"
