"""Bounded capture of a block's output: the first part, the last part, and the number of dropped bytes."""

from dataclasses import dataclass

HEAD_BYTES = 32 * 1024
TAIL_BYTES = 32 * 1024
# How far from a cut a line end is searched, else the end of a word, in bytes; without either, `_CAUTIOUS` bytes are
# dropped.
_REACH = 4096
_CAUTIOUS = 256


@dataclass(frozen=True)
class Captured:
    """Output as text. `dropped_bytes` between the first and the last part are not in `text`."""

    text: str
    dropped_bytes: int


class OutputWindow:
    """Accepts output of any size and encoding and keeps a bounded part of it."""

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._head_bytes, self._tail_bytes = head_bytes, tail_bytes
        self._head, self._tail = bytearray(), bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Add the next piece."""
        self._total += len(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data[-self._tail_bytes :]
            # Trimmed only occasionally: moving bytes for every small piece would take quadratic time.
            if len(self._tail) > 4 * self._tail_bytes:
                del self._tail[: -self._tail_bytes]

    def captured(self) -> Captured:
        r"""The kept output as text. Bytes that are not UTF-8 become `\xff`.

        No partial word is left at a cut: redaction would not recognise a partial token.
        """
        tail = bytes(self._tail[-self._tail_bytes :])
        if self._total == len(self._head) + len(tail):
            return Captured(_decode(bytes(self._head) + tail), 0)
        head, tail = _before_cut(bytes(self._head)), _after_cut(tail)
        dropped = self._total - len(head) - len(tail)
        return Captured(f"{_decode(head)}\n[{dropped} bytes dropped]\n{_decode(tail)}", dropped)


def _before_cut(data: bytes) -> bytes:
    newline = data.rfind(b"\n", max(0, len(data) - _REACH))
    if newline >= 0:
        return data[:newline]
    space = data.rfind(b" ", max(0, len(data) - _REACH))
    return data[:space] if space >= 0 else data[: max(0, len(data) - _CAUTIOUS)]


def _after_cut(data: bytes) -> bytes:
    newline = data.find(b"\n", 0, _REACH)
    if newline >= 0:
        return data[newline + 1 :]
    space = data.find(b" ", 0, _REACH)
    return data[space + 1 :] if space >= 0 else data[_CAUTIOUS:]


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
