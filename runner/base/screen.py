"""Output streams of the commands: control sequences in printed text are removed, and a lost stream does not end a run.

Every command imports this module, so it does not import Rich (`runner.cli.console` does).
"""

import contextlib
import os
import select
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from runner.base.plain import one_line, plain


class Screen:
    """A text stream that removes terminal control sequences and ignores the loss of its reader.

    Printed text may come from a record, a step, a log or a file name, so only text, line ends and tabs are written.
    Colours are added by `runner.cli.console`.

    The reader may exit, the terminal hang up, or the disk be full. Later output is then discarded and `lost` holds the
    error: a run and its record matter more than their display. All other attributes are the stream's own.
    """

    def __init__(self, stream: TextIO, patience_s: float | None = None) -> None:
        # A screen of a screen writes to the inner stream, so that each knows its own losses.
        self._stream: TextIO = stream._stream if isinstance(stream, Screen) else stream  # noqa: SLF001 - its own kind
        self.lost: OSError | None = None
        # How long to wait for a reader that does not read, in seconds; without limit when left out.
        self._patience_s = patience_s

    def write(self, text: str) -> int:
        """Write the text without control sequences, or give the stream up."""
        self.write_styled(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def write_styled(self, text: str) -> None:
        """Write text that contains this project's own styles, or give the stream up."""
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
        """Whether the stream accepts output; after a timeout, output is discarded until it does."""
        if self._patience_s is None:
            return True
        waiting = select.poll()
        try:
            waiting.register(self._stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):
            # Not backed by a file, so writing cannot block.
            return True
        if waiting.poll(self._patience_s * 1000):
            return True
        self._patience_s = 0.0
        return False

    def _give_up(self, error: OSError) -> None:
        self.lost = error
        # The rest of the stream's buffer would fail once more when Python exits.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def tell_trouble(message: str) -> None:
    """Print a problem on standard error; the run goes on."""
    print(f"runbook: {one_line(message)}", file=cast("IO[str]", Screen(sys.stderr)), flush=True)
