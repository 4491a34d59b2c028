"""Drills of the rendezvous: ranks that cannot meet, and what torch says about it."""

import contextlib
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import RunbookError
from runner.kit.children import Child, ended_by_sigterm, without_launch
from runner.kit.own_port import own_port
from runner.kit.probe import require_torch

# RFC 6761 has no host under this name.
_NOWHERE = "rank-0.invalid"
_LOOPBACK = "127.0.0.1"
# Loading torch on a busy machine, beside the timeout.
_START_S = 240.0
_WARNING = re.compile(r"\[[WE]\d*[^]]*\]\s*(.+)")
_MOST_WARNINGS = 8


@dataclass(frozen=True)
class RendezvousEnding:
    """How a rank fared.

    Attributes:
        case: one of `RENDEZVOUS_FAULTS`.
        message: torch's error, in one line; empty if it joined.
        warnings: what torch warned of before, each once.
        seconds: from the call that joins until its end.
    """

    case: str
    message: str
    warnings: tuple[str, ...]
    seconds: float

    @property
    def ending(self) -> str:
        """`joined`, or `failed`."""
        return "failed" if self.message else "joined"

    def worded_like(self, other: "RendezvousEnding") -> bool:
        """Whether both have the same final message, but for the address, the port and the seconds."""
        return bool(self.message) and _general(self.message) == _general(other.message)


def drill_rendezvous(case: str, timeout_s: float) -> tuple[RendezvousEnding, ...]:
    """Let ranks fail to meet.

    Args:
        case: one of `RENDEZVOUS_FAULTS`. An unknown host is always tried beside a dead port, to compare their messages.
        timeout_s: of the rendezvous.

    Returns:
        One rendezvous; for an unknown host and a dead port two, the one that was asked for first.

    Raises:
        RunbookError: a rank gave no answer.
        ModuleNotFoundError: torch is not installed.
    """
    require_torch()
    alike = ("unknown-host", "dead-port")
    cases = (case, *(one for one in alike if one != case)) if case in alike else (case,)
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rendezvous-")))
        ranks = [(one, _start(one, timeout_s, folder, stack)) for one in cases]
        deadline = time.monotonic() + timeout_s + _START_S
        return tuple(_answer(one, output, child, deadline) for one, (child, output) in ranks)


def _start(case: str, timeout_s: float, folder: Path, stack: contextlib.ExitStack) -> tuple[Child, Path]:
    """Start the ranks of a case, and a program that holds their port if that is the case; the last one is judged."""
    holder = stack.enter_context(socket.socket())
    port = own_port()
    holder.bind((_LOOPBACK, port))
    if case == "held-port":
        holder.listen()
    elif case == "large-world":
        holder.close()
    # Else the port stays bound, and nothing listens there.
    host = _NOWHERE if case == "unknown-host" else _LOOPBACK
    ranks, size = {"held-port": ((0,), 2), "large-world": ((1, 0), 3)}.get(case, ((1,), 2))
    for rank in ranks:
        place = {
            "RANK": rank,
            "WORLD_SIZE": size,
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "LOCAL_RANK": rank,
        }
        environment = without_launch(os.environ) | {name: str(value) for name, value in place.items()}
        output = folder / f"{case}-{rank}"
        words = [
            sys.executable, "-m", "runner.kit.drill.joining", f"--parent={os.getpid()}", f"--timeout={timeout_s}"
        ]  # fmt: skip
        child = stack.enter_context(
            Child(words, {"GLOO_SOCKET_IFNAME": "lo"} | environment, output, grace_s=0.0)
        )
    return child, output


def _answer(case: str, output: Path, child: Child, deadline: float) -> RendezvousEnding:
    ended = child.wait(deadline - time.monotonic())
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    answers = [line for line in lines if line.startswith('{"message"')]
    if not answers:
        how = "ended without an answer" if ended else "gave no answer in time"
        raise RunbookError(f"the rank of {case} {how}: {lines[-1][:300] if lines else 'it printed nothing'}")
    answer = json.loads(answers[-1])
    return RendezvousEnding(case, answer["message"], _warnings(lines), answer["seconds"])


def _warnings(lines: Sequence[str]) -> tuple[str, ...]:
    found = (match[1] for line in lines if (match := _WARNING.match(line)))
    return tuple(dict.fromkeys(found))[:_MOST_WARNINGS]


def _general(message: str) -> str:
    return re.sub(r"\d+", "N", re.sub(r"\([^()]*,\s*\d+\)", "(HOST, PORT)", message))
