"""The line between the first node of a joint job and another: one JSON object per line, both ways, over TCP."""

import contextlib
import selectors
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from runner.base.plain import one_line
from runner.kit.json_lines import complete, encoded

# The answers of eight ranks with a thousand times each are about 200 kB.
_MOST_BYTES = 64 << 20
_GREETING_S = 5.0
_SEND_S = 30.0


class JointLine:
    """One end of the line; a context that closes it.

    Attributes:
        inbox: messages that were not taken yet, in order.
        failure: why nothing more will come: the other side's error, or its end; None while it is well.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest = connection, b""
        connection.settimeout(_SEND_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self.inbox: list[dict[str, Any]] = []
        self.failure: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._selector.close()
        self._connection.close()

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message; if the other side is gone, `failure` says so."""
        try:
            self._connection.sendall(encoded(message))
        except OSError as error:
            self.failure = self.failure or f"its connection broke ({error.strerror or error})"

    def read(self, seconds: float = 0.0) -> None:
        """Take what has come; wait for it at most this long."""
        while self.failure is None and self._selector.select(seconds):
            seconds = 0.0
            try:
                data = self._connection.recv(1 << 20)
                whole, self._rest = complete(self._rest + data)
            except (OSError, ValueError, RecursionError) as error:
                self.failure = f"its connection broke ({one_line(str(error))[:100]})"
                return
            messages: list[Any] = [*whole]
            for message in messages:
                if not isinstance(message, dict):
                    self.failure = "it sent something else than a message"
                elif "error" in message:
                    self.failure = one_line(str(message["error"]))[:1000]
                else:
                    self.inbox.append(message)
            if not data:
                self.failure = self.failure or "its command ended"
            elif len(self._rest) > _MOST_BYTES:
                self.failure = f"it sent a message of more than {_MOST_BYTES} bytes"

    def greeting(self) -> dict[str, Any]:
        """The first message; empty if none comes within 5 s."""
        until = time.monotonic() + _GREETING_S
        while not self.inbox and self.failure is None and (left := until - time.monotonic()) > 0:
            self.read(left)
        with contextlib.suppress(IndexError):
            return self.inbox.pop(0)
        return {}
