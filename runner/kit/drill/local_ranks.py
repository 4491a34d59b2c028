"""Ranks of one job on this host, whose ends are awaited and not avoided. No torch here.

`runner.kit.ranks.World` ends all ranks at the first error, as torchrun does. A drill needs to see what each rank says
and how it ends, so this starts the ranks itself, as `srun` does, and lets them go on.
"""

import contextlib
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from runner.base.errors import RankError
from runner.base.processes import stat_of
from runner.kit.children import Child, without_launch
from runner.kit.json_lines import encoded
from runner.kit.own_port import own_port
from runner.kit.probe import require_torch
from runner.kit.rank_line import LINE_VARIABLE, Member, listening_line

_POLL_S = 0.1
_GREETING_S = 60.0
_END_GRACE_S = 10.0
_STOPPED = "Tt"
# The last line of a traceback, or what C++ says when it aborts.
_CAUSE = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b|what\(\):")


class LocalRanks:
    """Ranks that run one program on this host.

    Args:
        program: the Python arguments of a rank.
        ranks: how many.
        environment: of this process; the variables of a launch are replaced.
        folder: an empty folder, with a short path because sockets are in it.
        deadline: `time.monotonic()` after which waiting is an error.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """

    def __init__(
        self,
        program: Sequence[str],
        ranks: int,
        environment: Mapping[str, str],
        folder: Path,
        deadline: float,
    ) -> None:
        require_torch()
        self.ranks, self._folder, self._deadline = ranks, folder, deadline
        self._program, self._environment = program, environment
        self._resources = contextlib.ExitStack()
        self._children: list[Child] = []
        self._members: dict[int, Member] = {}
        self._closed: set[int] = set()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _start(self) -> None:
        enter = self._resources.enter_context
        self._listener = enter(listening_line(self._folder, self.ranks))
        self._selector = enter(selectors.DefaultSelector())
        self._selector.register(self._listener, selectors.EVENT_READ)
        port = own_port()
        for rank in range(self.ranks):
            child = Child(
                [sys.executable, *self._program],
                self._environment_of(rank, port),
                self._folder / f"output_{rank}",
                grace_s=0.0,
            )
            self._children.append(enter(child))

    def _environment_of(self, rank: int, port: int) -> dict[str, str]:
        names = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.ranks,
            "LOCAL_WORLD_SIZE": self.ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCH_WORKER_SERVER_SOCKET": self._folder / f"server_{rank}",
            LINE_VARIABLE: self._folder / "line",
        }
        return without_launch(self._environment) | {name: str(value) for name, value in names.items()}

    @property
    def pids(self) -> list[int]:
        """Process ids, in order of rank."""
        return [child.pid for child in self._children]

    def marks(self, rank: int) -> Sequence[str]:
        """The places that a rank has reported."""
        member = self._members.get(rank)
        return member.marks if member else ()

    def gone(self, rank: int) -> bool:
        """Whether the rank has said its last word, or has ended before it said anything."""
        if rank in self._members:
            # What it said last may still be on the line when it has ended.
            return rank in self._closed
        return self._children[rank].status is not None

    def last_word(self, rank: int) -> str | None:
        """The error with which a rank has ended; None while it goes on, or if it has ended well."""
        member = self._members.get(rank)
        said = [message["ended"] for message in member.inbox if "ended" in message] if member else []
        if said:
            return str(said[0])
        if not self.gone(rank):
            return None
        self._children[rank].wait(_END_GRACE_S)
        status = self._children[rank].status
        if status == 0:
            return None
        how = f"exit status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        return f"{how}{self._printed(rank)}"

    def complaining(self) -> list[int]:
        """The ranks that have ended with an error of their own."""
        return [rank for rank in range(self.ranks) if self.last_word(rank) is not None]

    def _printed(self, rank: int) -> str:
        text = (self._folder / f"output_{rank}").read_bytes()[-20_000:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        causes = [line for line in lines if _CAUSE.match(line)] or lines[-1:]
        return f": {causes[0][-300:]}" if causes else ""

    def ask(self, command: Mapping[str, object] | None, doing: str) -> list[dict[str, Any]]:
        """Send every rank the same command, and collect their answers in order of rank.

        Args:
            command: None waits for what the ranks say by themselves.
            doing: the activity, for messages.

        Raises:
            RankError: a rank ended, or did not answer by the deadline.
        """
        if command is not None:
            self.tell(command)
        self.wait_until(lambda: all(self.answered(rank) for rank in range(self.ranks)), doing, ends=False)
        return [self.take(rank) for rank in range(self.ranks)]

    def tell(self, command: Mapping[str, object]) -> None:
        """Send every rank a command; one that has ended is left out."""
        for member in self._members.values():
            with contextlib.suppress(OSError):
                member.connection.sendall(encoded(command))

    def answered(self, rank: int) -> bool:
        """Whether a rank has an answer that was not taken."""
        member = self._members.get(rank)
        return member is not None and any("ended" not in message for message in member.inbox)

    def take(self, rank: int) -> dict[str, Any]:
        """The oldest answer of a rank that was not taken."""
        return self._members[rank].inbox.pop(0)

    def wait_until(self, condition: Callable[[], bool], doing: str, *, ends: bool = True) -> None:
        """Listen until the condition is met.

        Args:
            condition: looked at after every message.
            doing: the activity, for messages.
            ends: whether ranks may end meanwhile.

        Raises:
            RankError: it is not met by the deadline, or a rank ended that must not.
        """
        while not condition():
            gone = [rank for rank in range(self.ranks) if self.gone(rank)]
            if gone and not ends:
                words = "; ".join(f"rank {rank}: {self.last_word(rank) or 'ended'}" for rank in gone)
                raise RankError(f"{words}, while {doing}")
            left = self._deadline - time.monotonic()
            if left <= 0:
                silent = {rank: ("its start", *self.marks(rank))[-1] for rank in range(self.ranks)}
                seen = ", ".join(f"rank {rank} at {mark}" for rank, mark in silent.items())
                raise RankError(f"the drill's deadline passed while {doing}; last seen: {seen}")
            self.listen(min(left, _POLL_S))

    def listen(self, seconds: float = 0.0) -> None:
        """Take in what the ranks have said, or wait this long for it."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                member = Member(self._resources.enter_context(connection))
                if member.greets(_GREETING_S):
                    self._members[member.rank] = member
                    self._selector.register(connection, selectors.EVENT_READ)
                continue
            member = next(one for one in self._members.values() if one.connection is key.fileobj)
            if not member.read():
                self._selector.unregister(member.connection)
                self._closed.add(member.rank)

    def resume(self, rank: int) -> None:
        """Continue a rank that stops itself, once it has stopped.

        Raises:
            RankError: it does not stop.
        """
        pid = self.pids[rank]

        def stopped() -> bool:
            found = stat_of(pid)
            return found is None or found.state in _STOPPED or not found.lives

        self.wait_until(stopped, f"stopping rank {rank}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def dismiss(self) -> None:
        """Close the lines, which ends the loops of the ranks, and wait a while for their ends."""
        for member in self._members.values():
            with contextlib.suppress(OSError):
                member.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _END_GRACE_S
        for child in self._children:
            child.wait(deadline - time.monotonic())
