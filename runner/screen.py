"""What commands print on: streams that nothing steers but this project, and whose loss does not end a run.

Imported by every command, so Rich stays out of it (`runner.cli.console`).
"""

import contextlib
import os
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

    def __init__(self, stream: TextIO) -> None:
        # A screen on a screen is one on the stream, so that each knows what it lost itself.
        self._stream: TextIO = stream._stream if isinstance(stream, Screen) else stream  # noqa: SLF001 - its own kind
        self.lost: OSError | None = None

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
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)

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


def tell_trouble(message: str) -> None:
    """Say on standard error what is wrong without ending anything."""
    print(f"runbook: {one_line(message)}", file=cast("IO[str]", Screen(sys.stderr)), flush=True)
