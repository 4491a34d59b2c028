"""Asks NCCL's RAS (NCCL 2.24 and later) for the state of a job, in the protocol of NCCL's own client `ncclras`.

Every process of a job listens at the same address of its node, and the kernel chooses one of them for each connection.
The chosen one may be stopped, so a connection without a greeting is tried again, as `ncclras` does. Two jobs of one
user on a node share the address too: compare `RasReport.world` and `RasReport.pids` with the job.

The text is asked for first: it is short, and all versions write it. NCCL assembles the JSON in a buffer that it copies
every 4 KiB, which takes long for many ranks, so JSON is asked for of smaller jobs alone.
"""

import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from runner.base.plain import visible_line
from runner.base.time_limit import answer_within, seconds_left
from runner.base.units import format_bytes
from runner.hang.model import RasReport
from runner.hang.ras_counts import RasError
from runner.hang.ras_json import parse_ras_json
from runner.hang.ras_text import parse_ras_text

DEFAULT_ADDRESS, DEFAULT_PORT = "localhost", 28028
_ADDRESS, _ENABLE = "NCCL_RAS_ADDR", "NCCL_RAS_ENABLE"
_PAIR = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[\w.-]+)):(?P<port>\d{1,5})", re.ASCII
)
_HIGHEST_PORT = 65535
# Of `ncclras`; every published version of NCCL that has RAS answers with this one.
_PROTOCOL = 2
_GREETING = re.compile(r"SERVER PROTOCOL (\d{1,9})", re.IGNORECASE)
_MOST_LINE_BYTES, _MOST_BYTES = 4096, 64 * 2**20
_CLOSED = (
    "NCCL's RAS closes the connection without an answer: its process may have ended meanwhile; ask again"
)
# Seconds for a process to greet, as in `ncclras`, before another one is tried.
_GREETING_S = 1.0
# Above this, the JSON of all communicators takes NCCL seconds to write.
_MOST_JSON_RANKS = 512

_Reply = TypeVar("_Reply")


def ras_address(environment: Mapping[str, str]) -> tuple[str, int]:
    """The address at which the RAS of a process with this environment listens: host and port.

    NCCL also reads its configuration files, which are not looked at.

    Raises:
        RasError: RAS is switched off, or its address is of a form with which NCCL listens nowhere. The default address
            is then not a second choice: another job may answer there.
    """
    if re.fullmatch(r"\s*[-+]?0+(?:x0+)?\s*", environment.get(_ENABLE, "")):
        raise RasError(
            f"NCCL's RAS is switched off in the job's environment ({_ENABLE}=0); start the job without it"
        )
    value = environment.get(_ADDRESS)
    if not value:
        return DEFAULT_ADDRESS, DEFAULT_PORT
    found = _PAIR.fullmatch(value)
    if found is None or not 0 < int(found["port"]) <= _HIGHEST_PORT:
        raise RasError(
            f"NCCL's RAS listens nowhere: {_ADDRESS}={visible_line(value[:80])} in the job's environment is not "
            "HOST:PORT or [IPv6]:PORT"
        )
    return found["v6"] or found["name"], int(found["port"])


def ask_ras(address: str, port: int, seconds: float) -> RasReport:
    """The report of the job whose RAS listens at this address.

    Args:
        address: a host name or an IP address.
        port: its TCP port.
        seconds: for everything. NCCL waits for silent processes for half of them, and reports without them.

    Raises:
        RasError: nothing listens there, another program answers, or there is no complete answer in time.
    """
    deadline = time.monotonic() + seconds
    where = f"{visible_line(address)}:{port}"
    try:
        report = parse_ras_text(_ask(address, port, deadline, seconds, _text).decode(errors="replace"))
        return _with_json(report, address, port, deadline, seconds)
    except TimeoutError as error:
        raise RasError(
            f"NCCL's RAS at {where} does not answer within {seconds:g} s: its process may be stopped or hung"
        ) from error
    except ConnectionRefusedError as error:
        raise RasError(
            f"nothing listens at {where}: the job has NCCL older than 2.24, has not started NCCL, or has its RAS "
            f"switched off or elsewhere ({_ENABLE}, {_ADDRESS})"
        ) from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise RasError(_CLOSED) from error
    except OSError as error:
        raise RasError(
            f"NCCL's RAS at {where}: {error.strerror or error}; try `ncclras` on the job's node"
        ) from error


def _with_json(report: RasReport, address: str, port: int, deadline: float, seconds: float) -> RasReport:
    """The report with what only the JSON says, where this NCCL has it."""
    if report.world is None or report.world > _MOST_JSON_RANKS:
        return report
    try:
        detailed = parse_ras_json(_ask(address, port, deadline, seconds, _json))
    except (RasError, OSError):
        # An older NCCL, or too little time: the text is an answer by itself.
        return report
    if detailed.world != report.world:
        return report
    if report.healthy:
        # A job that runs launches collectives between the two answers, and its ranks differ for a moment.
        return report.model_copy(update={"pids": detailed.pids})
    # The JSON names no process outside of communicators, dead ones among them.
    general = tuple(one for one in report.findings if not one.startswith("#"))
    findings = general + tuple(one for one in detailed.findings if not one.startswith("TIMEOUT"))
    return detailed.model_copy(update={"findings": findings, "healthy": not findings})


def _ask(
    address: str,
    port: int,
    deadline: float,
    seconds: float,
    ask: "Callable[[_Conversation], _Reply]",
) -> _Reply:
    while True:
        greeting_by = min(deadline, time.monotonic() + max(_GREETING_S, seconds / 10))
        try:
            talk = _greeted(address, port, greeting_by, deadline)
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise
            continue
        with talk.connection:
            talk.deadline = deadline
            talk.demand(f"TIMEOUT {max(1, int((deadline - time.monotonic()) / 2))}")
            return ask(talk)


def _greeted(address: str, port: int, by: float, deadline: float) -> "_Conversation":
    """A conversation with a process that has greeted, which happens at once if it runs."""
    talk = _Conversation(_connected(address, port, by, deadline), by)
    try:
        talk.greet()
    except BaseException:
        talk.connection.close()
        raise
    return talk


def _connected(address: str, port: int, by: float, deadline: float) -> socket.socket:
    """A connection to the first address of the name that accepts one."""
    refused: OSError | None = None
    try:
        places = answer_within(
            seconds_left(deadline), lambda: socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        )
    except (ValueError, OverflowError) as error:
        raise RasError(f"{visible_line(address[:80])!r} is not the address of NCCL's RAS: {error}") from error
    for family, kind, protocol, _, place in places:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(seconds_left(by))
            connection.connect(place)
        except OSError as error:
            connection.close()
            refused = error
        else:
            return connection
    raise refused or OSError("the name has no address")


class _Conversation:
    """Lines to and from the server, until a deadline that may be moved."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection, self.deadline = connection, deadline
        self._waiting = bytearray()

    def say(self, line: str) -> None:
        self.connection.settimeout(seconds_left(self.deadline))
        self.connection.sendall(f"{line}\n".encode())

    def greet(self) -> None:
        """Exchange the versions of the protocol."""
        self.say(f"CLIENT PROTOCOL {_PROTOCOL}")
        reply = self._line()
        found = _GREETING.fullmatch(reply)
        if found is None:
            raise RasError(
                f"another program than NCCL's RAS answers there ({reply[:60]!r}); see NCCL_RAS_ADDR"
            )
        if int(found[1]) < _PROTOCOL:
            raise RasError(
                f"NCCL's RAS speaks protocol {found[1]}, older than {_PROTOCOL}; ask with its own `ncclras`"
            )

    def demand(self, line: str) -> None:
        """Send a line that the server has to accept."""
        self.say(line)
        reply = self._line()
        if reply != "OK":
            raise RasError(f"NCCL's RAS refuses {line!r} ({reply[:60]!r}); ask with its own `ncclras`")

    def rest(self) -> bytes:
        """All that the server still sends before it closes the connection."""
        while self._receive():
            if len(self._waiting) > _MOST_BYTES:
                raise RasError(f"NCCL's RAS sends more than {format_bytes(_MOST_BYTES)}; ask with `ncclras`")
        return bytes(self._waiting)

    def _line(self) -> str:
        while b"\n" not in self._waiting and len(self._waiting) <= _MOST_LINE_BYTES:
            if not self._receive():
                raise RasError(
                    "NCCL's RAS closes the connection without an answer: its process may have ended"
                )
        line, _, rest = bytes(self._waiting).partition(b"\n")
        self._waiting = bytearray(rest)
        return visible_line(line[:_MOST_LINE_BYTES].decode(errors="replace").removesuffix("\r"))

    def _receive(self) -> bool:
        self.connection.settimeout(seconds_left(self.deadline))
        found = self.connection.recv(65536)
        self._waiting += found
        return bool(found)


def _text(talk: _Conversation) -> bytes:
    talk.say("VERBOSE STATUS")
    return talk.rest()


def _json(talk: _Conversation) -> bytes:
    talk.demand("SET FORMAT json")
    talk.say("STATUS")
    return talk.rest()
