r"""How a log is cut into the texts that patterns are matched against. Pure.

A *line* ends with a line feed and has a number. A *piece* is a part of a line between carriage returns: a progress bar
redraws itself after each, so a message that follows one begins a piece. A piece longer than `WINDOW` bytes is matched
in overlapping *windows*, so that a match that begins late, as in a line of JSON, is found, and the time that a pattern
takes stays proportional to the length of the log. The site's page follows the same rules (`kb/assets/runbook.js`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

WINDOW = 4096
"""The longest text, in bytes, that a pattern is matched against."""
OVERLAP = 2048
"""Bytes that two windows share. A longer match is found only if it lies within one window."""
_STEP = WINDOW - OVERLAP
# A piece without an end is passed on from this length, so that a log of one line needs no memory for all of it.
_LONG = 1 << 16


@dataclass(frozen=True)
class Block:
    """Consecutive bytes of a log.

    Attributes:
        data: whole pieces; the first one and the last one may be parts of a piece, cut between windows.
        number: of the line in which the block begins, from 1.
        inside: the block begins within a piece. Its first byte is then the one before the first window, so that `^`
            and a word boundary are judged as in the whole piece.
    """

    data: bytes
    number: int
    inside: bool

    def pieces(self, texts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
        """Begin and end of the pieces that hold one of the texts; without texts, of all that are not empty."""
        data = self.data
        place, line_end = 0, -1
        following = {text: data.find(text) for text in texts}
        while place < len(data):
            if texts:
                for text, at in following.items():
                    if 0 <= at < place:
                        following[text] = data.find(text, place)
                found = min((at for at in following.values() if at >= 0), default=None)
                if found is None:
                    return
                place = data.rfind(b"\n", place, found) + 1 or place
                place = data.rfind(b"\r", place, found) + 1 or place
            if line_end < place:
                line_end = data.find(b"\n", place)
                line_end = len(data) if line_end < 0 else line_end
            end = data.find(b"\r", place, line_end)
            end = line_end if end < 0 else end
            if end > place:
                yield place, end
            place = end + 1

    def windows(self, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """The windows of a piece: the bytes, and where in them the search begins (after a byte of context or at 0)."""
        begin = int(self.inside and start == 0)
        context = begin
        start += begin
        while True:
            yield self.data[start - context : min(end, start + WINDOW)], context
            if start + WINDOW >= end:
                return
            start, context = start + _STEP, 1


def blocks(chunks: Iterable[bytes]) -> Iterator[Block]:
    """The log as blocks, whatever the lengths of the chunks that it comes in."""
    rest, number, inside = b"", 1, False
    for chunk in chunks:
        data = rest + chunk
        # What was kept has no end of a piece.
        end = max(data.rfind(b"\n", len(rest)), data.rfind(b"\r", len(rest))) + 1
        if end:
            yield Block(data[:end], number, inside)
            number += data.count(b"\n", 0, end)
            inside = False
        rest = data[end:]
        if len(rest) >= _LONG:
            begin = int(inside)
            whole = (len(rest) - begin - WINDOW) // _STEP + 1
            yield Block(rest[: begin + (whole - 1) * _STEP + WINDOW], number, inside)
            rest, inside = rest[begin + whole * _STEP - 1 :], True
    if rest:
        yield Block(rest, number, inside)
