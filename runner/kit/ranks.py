"""Ranks started by torchrun, each with a line to this process. No torch here.

torchrun tells its caller little about which rank failed, and starts each rank in its own session, which a signal to
torchrun's process group does not reach. So every rank connects to the calling process. The caller then sends commands,
receives the answers, sees at once which rank has ended, and ends all of them with the context:

    program = ["-m", "runner.kit.collectives_worker", "--backend=gloo", "--timeout=60"]
    with ended_by_sigterm(), World(program, 4, os.environ, time.monotonic() + 90) as world:
        ready = world.ask(None, "joining the group")  # one answer of each rank, in order of rank
        answers = world.ask({"op": "all_reduce", "bytes": 1024, "check": True}, "checking all_reduce")

`rank_line.serve` is the rank's side. To make one rank faulty, send all of them a command that names it; that rank marks
the place, then stops, sleeps or exits by itself. `ask` raises an error that names the rank that died, or that was
behind the others or stopped at the deadline.
"""

import contextlib
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from runner.base.errors import InputError, LateRankError, RankError
from runner.kit.children import Child, without_launch
from runner.kit.json_lines import encoded
from runner.kit.probe import require_torch
from runner.kit.rank_line import LINE_VARIABLE, SOLE_VARIABLE, Member, listening_line

_END_GRACE_S = 10.0
_POLL_S = 0.2
_LAST_WORD_S = 1.0
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Across:
    """A world over several nodes: how many, which of them this is, and where the ranks meet (on the first)."""

    nodes: int
    node: int
    address: str
    port: int


class World:
    """Ranks that run one program and receive commands.

    Args:
        program: the Python arguments of each rank, such as `["-m", "runner.kit.collectives_worker"]`.
        ranks: number of ranks that torchrun starts; None for one process without torchrun, in the given environment.
        environment: complete environment of the ranks; torchrun's own variables are removed for torchrun.
        deadline: `time.monotonic()` after which a missing answer is an error.
        label: name of this world in messages.
        port: rendezvous port of the ranks; None lets torchrun choose a free one.
        across: the nodes, if the ranks of this node, `ranks` of them, are a part of the world.
        meanwhile: called while answers are waited for, about five times a second; may raise.

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
        across: Across | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        require_torch()
        if port is not None:
            refuse_taken(port)
        self._program, self._environment, self._port = program, environment, port
        self._torchrun, self._ranks = ranks is not None, ranks or 1
        self._across, self._meanwhile = across, meanwhile
        first = across.node * self._ranks if across else 0
        self._own = range(first, first + self._ranks)
        self._deadline, self._label = deadline, f" ({label})" if label else ""
        self._members: dict[int, Member] = {}
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._resources.close()
            raise
        return self

    def _start(self) -> None:
        enter = self._resources.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="ranks-")))
        self._output = folder / "output"
        self._listener = enter(listening_line(folder, self._ranks))
        self._selector = enter(selectors.DefaultSelector())
        self._selector.register(self._listener, selectors.EVENT_READ)
        own = {**self._environment, SOLE_VARIABLE: "0"}
        if self._torchrun:
            own = without_launch(self._environment)
        own[LINE_VARIABLE] = str(folder / "line")
        # Ranks have nothing to clean up.
        self._child = enter(Child(self._command(), own, self._output, grace_s=0.0))

    def _command(self) -> list[str]:
        if not self._torchrun:
            return [sys.executable, *self._program]
        local = (f"--nproc-per-node={self._ranks}",)
        if self._across:
            at = f"{self._across.address}:{self._across.port}"
            many = (f"--nnodes={self._across.nodes}", f"--node-rank={self._across.node}")
            words = (*many, *local, "--rdzv-backend=static", f"--rdzv-endpoint={at}")
            return [sys.executable, "-m", "torch.distributed.run", *words, *self._program]
        meet = ["--standalone"]
        if self._port is not None:
            meet = ["--master-addr=127.0.0.1", f"--master-port={self._port}"]
        here = "--local-addr=127.0.0.1"
        return [sys.executable, "-m", "torch.distributed.run", *meet, here, *local, *self._program]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._resources:
            if kind is None:
                self.dismiss()
                # torchrun sees the ranks' end.
                self._child.wait(_END_GRACE_S)

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
            line = encoded(command)
            for rank, member in self._members.items():
                try:
                    member.connection.sendall(line)
                except OSError as error:
                    raise self._lost(rank, doing) from error
        while not all(member.inbox for member in self._members.values()):
            self._receive(doing, latest)
        return [self._members[rank].inbox.pop(0) for rank in self._own]

    def _receive(self, doing: str, deadline: float) -> None:
        self._meanwhile()
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._late(doing)
        ready = [key.fileobj for key, _ in self._selector.select(min(left, _POLL_S))]
        if not ready and self._child.status is not None:
            starter = "torchrun" if self._torchrun else "the process"
            raise RankError(f"{starter}{self._label} ended while {doing}{self._last_error()}")
        heard = [member for member in self._members.values() if member.connection in ready]
        closed = [member for member in heard if not member.read()]
        failed = {member.rank: member.error for member in heard if member.error is not None}
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
                if member.rank not in complaining and member.error is None:
                    return [member.rank]
        return []

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        member = Member(self._resources.enter_context(connection))
        if not member.greets(max(0.1, self._deadline - time.monotonic())):
            raise RankError(f"a rank{self._label} died at its start{self._last_error()}")
        self._members[member.rank] = member
        self._selector.register(connection, selectors.EVENT_READ)

    def _lost(self, rank: int, doing: str) -> RankError:
        return RankError(
            f"rank {rank}{self._label} died while {doing} (killed, out of memory, or crashed){self._last_error()}"
        )

    def _late(self, doing: str) -> LateRankError:
        absent = [rank for rank in self._own if rank not in self._members]
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


def _named(ranks: Sequence[int]) -> str:
    listed = ", ".join(str(rank) for rank in ranks)
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"
