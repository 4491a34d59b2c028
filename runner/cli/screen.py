"""What a run prints on: a stream whose loss does not end the run."""

import contextlib
import os
from typing import Any, TextIO


class Screen:
    """A text stream that goes on when its reader goes away, its terminal hangs up or its disk is full.

    The rest of what is written then goes nowhere and `lost` has the error: a run and its record matter more than
    their display. Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        # A screen on a screen is one on the stream, so that each knows what it lost itself.
        self._stream: TextIO = stream._stream if isinstance(stream, Screen) else stream  # noqa: SLF001 - its own kind
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or give the stream up."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or give the stream up."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        """Encoding, isatty, fileno and the like."""
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        self.lost = error
        # What is still in the stream's buffer would fail once more when Python ends.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
