"""What commands print on: streams that nothing steers but this project, and whose loss does not end a run.

Imported by every command, so Rich stays out of it (`runner.cli.console`).
"""

import contextlib
import os
import select
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from runner.plain import one_line, plain


class Screen:
    """A text stream that takes out whatever steers a terminal, and goes on when nobody takes what is written.

    What is printed may come from a record, a step, a log or a file's name, so nothing but text, line ends and tabs
    gets through; colours are for `runner.cli.console`.

    Its reader may go away, its terminal hang up, its disk be full. The rest of what is written then goes nowhere and
    `lost` has the error: a run and its record matter more than their display. Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO, patience_s: float | None = None) -> None:
        # A screen on a screen is one on the stream, so that each knows what it lost itself.
        self._stream: TextIO = stream._stream if isinstance(stream, Screen) else stream  # noqa: SLF001 - its own kind
        self.lost: OSError | None = None
        # How long a reader that takes nothing is waited for: without end, as by any command, when left out.
        self._patience_s = patience_s

    def write(self, text: str) -> int:
        """Write what is text in it, or give the stream up."""
        self.write_styled(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def write_styled(self, text: str) -> None:
        """Write text of which the styles are this project's own, or give the stream up."""
        try:
            if self._taken():
                self._stream.write(text)
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        """Flush, or give the stream up."""
        try:
            if self._taken():
                self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        """Encoding, isatty, fileno and the like."""
        return getattr(self._stream, name)

    def _taken(self) -> bool:
        """Whether the stream takes something; once it did not, what comes while it does not is left out."""
        if self._patience_s is None:
            return True
        waiting = select.poll()
        try:
            waiting.register(self._stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):
            # No file behind it, so nobody who could keep it waiting.
            return True
        if waiting.poll(self._patience_s * 1000):
            return True
        self._patience_s = 0.0
        return False

    def _give_up(self, error: OSError) -> None:
        self.lost = error
        # What is still in the stream's buffer would fail once more when Python ends.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def tell_trouble(message: str) -> None:
    """Say on standard error what is wrong without ending anything."""
    print(f"runbook: {one_line(message)}", file=cast("IO[str]", Screen(sys.stderr)), flush=True)
