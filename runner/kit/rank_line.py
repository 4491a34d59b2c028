"""The line between a rank and the process that started it: one JSON object per line, both ways, on a Unix socket.

A rank's program is `sys.exit(serve(work))`. `work` gets the line, reports when it is ready, and answers commands until
the caller closes the line. No torch here: a rank connects before it imports torch, so that its end is seen from then.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from runner.base.errors import InputError
from runner.base.plain import visible_line
from runner.kit.json_lines import complete, encoded

# unix(7): a path of 108 bytes, its end included; the longest name in such a folder is `server_255`.
_LONGEST_PATH, _LONGEST_NAME = 107, 10
LINE_VARIABLE = "RUNBOOK_RANK_LINE"
SOLE_VARIABLE = "RUNBOOK_SOLE_RANK"


def listening_line(folder: Path, ranks: int) -> socket.socket:
    """The caller's end of the lines: a socket at `folder`/line, to which this many ranks connect.

    Raises:
        InputError: the path of the folder is too long for the sockets of the ranks.
    """
    if len(os.fsencode(folder)) + 1 + _LONGEST_NAME > _LONGEST_PATH:
        raise InputError(
            f"{visible_line(str(folder.parent))} is too long for the sockets of the ranks; set TMPDIR to a folder with "
            "a shorter path"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(folder / "line"))
        listener.listen(ranks)
    except BaseException:
        listener.close()
        raise
    return listener


class RankLine:
    """A rank's end of the line."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(os.environ[LINE_VARIABLE])
        self._lines = self._socket.makefile("rb")
        # A process started without torchrun is the only rank; a RANK in its environment is a leftover.
        self.rank = int(os.environ.get(SOLE_VARIABLE) or os.environ["RANK"])
        self.send({"rank": self.rank, "pid": os.getpid()})

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message to the process that started the ranks; one with `error` says that this rank has failed."""
        self._socket.sendall(encoded(message))

    def send_error(self, error: Exception) -> None:
        """Send an error, in one line."""
        self.send({"error": f"{type(error).__name__}: {error}".partition("\n")[0]})

    def mark(self, where: str) -> None:
        """Report the progress of this rank, so that a rank that falls behind can be named."""
        self.send({"at": where})

    def commands(self) -> Iterator[dict[str, Any]]:
        """Commands until the caller closes the line or ends."""
        yield from map(json.loads, self._lines)


def serve(work: Callable[[RankLine], None]) -> int:
    """Connect and do a rank's work; returns the exit status. An exception reaches the caller in one line."""
    line = RankLine()
    try:
        work(line)
    except Exception as error:  # noqa: BLE001 - every error of this rank must reach the caller
        line.send_error(error)
        return 1
    return 0


class Member:
    """The caller's end of one rank's line.

    Attributes:
        rank, pid: from the rank's greeting.
        inbox: messages that were not taken yet, in order.
        marks: the places that it has reported.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.rank = -1
        self.pid = -1
        self.inbox: list[dict[str, Any]] = []
        self.marks: list[str] = []
        self._rest = b""

    def greets(self, seconds: float) -> bool:
        """Wait for the rank's greeting, which it sends immediately after it connects; False if it does not come."""
        self.connection.settimeout(seconds)
        # No more than the greeting: an error that the rank sends next must be received like any other.
        while not self.inbox:
            if not self.read(1):
                return False
        self.connection.settimeout(None)
        hello = self.inbox.pop(0)
        self.rank, self.pid = hello["rank"], hello["pid"]
        return True

    def read(self, most_bytes: int = 1 << 20) -> bool:
        """Read the available data; False if the line is closed."""
        try:
            data = self.connection.recv(most_bytes)
        except OSError:
            data = b""
        messages, self._rest = complete(self._rest + data)
        for message in messages:
            if "at" in message:
                self.marks.append(message["at"])
            else:
                self.inbox.append(message)
        return bool(data)

    @property
    def error(self) -> str | None:
        """The error that it has reported, if any."""
        return next((message["error"] for message in self.inbox if "error" in message), None)

    def state(self) -> str:
        """State of the process, from the kernel."""
        try:
            return psutil.Process(self.pid).status()
        except psutil.Error:
            return "gone"
