"""The line between the first node of a joint job and another: one JSON object per line, both ways, over TCP."""

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
_GREETING_S, _GREETING_BYTES = 5.0, 64 << 10
_SEND_S = 30.0
_CHUNK_BYTES = 1 << 20


class JointLine:
    """One end of the line; a context that closes it.

    Attributes:
        inbox: messages that were not taken yet, in order.
        failure: why nothing more will come: the other side's error, or its end; None while it is well.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest = connection, b""
        self._greeted_by = time.monotonic() + _GREETING_S
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

    def read(self, seconds: float = 0.0, most: int = _MOST_BYTES) -> None:
        """Take what has come, about `most` bytes of it; wait for it at most this long."""
        taken = 0
        # The other side may send faster than this one reads: it must not decide when this ends.
        while self.failure is None and taken <= most and self._selector.select(seconds):
            seconds = 0.0
            try:
                data = self._connection.recv(min(_CHUNK_BYTES, most + 1))
                taken += len(data)
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
            elif len(self._rest) > most:
                self.failure = f"it sent a message of more than {most} bytes"

    def greeting(self) -> dict[str, Any] | None:
        """The first message; None while it may still come, and empty if it did not come within 5 s or is not one."""
        if not self.inbox:
            self.read(most=_GREETING_BYTES)
        if self.inbox:
            return self.inbox.pop(0)
        return {} if self.failure or time.monotonic() > self._greeted_by else None
