"""The last meaningful line that a program printed: what it said of its own end."""

import re
from collections.abc import Sequence
from pathlib import Path

from runner.evidence.redact import redact_text
from runner.placed import PlacedFileError, placed_file, read_end
from runner.plain import ESCAPE_CODES

LONGEST = 240
_TAIL_BYTES = 4096
# What `Window` makes of a byte that is not UTF-8.
_NOT_TEXT = re.compile(r"\\x[0-9a-f]{2}|[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")
_WORD = re.compile(r"[^\W\d_]{2}")
_MOST_NOT_TEXT = 0.5


def last_words(output: str, secrets: Sequence[str] = ()) -> str | None:
    r"""The last line that says something, redacted, as one line of at most `LONGEST` characters; None without one.

    A `\r` ends a line as a `\n` does: of a progress bar the last state counts. Escape sequences are removed. Lines
    without a word (rulers, carets) and lines that are mostly no text are passed over.

    Args:
        output: what a program printed, as `runner.launch.output` holds it.
        secrets: further words to take out (`runner.evidence.redact.host_secrets`).
    """
    # Redacted as a whole, since some secrets span lines and half of one would pass. What is no text is passed over
    # before, while it can still be told from text.
    lines = (line for line in re.split(r"[\r\n]+", output) if _says_something(line))
    clean = redact_text("\n".join(lines), secrets)
    return next(
        (_bounded(" ".join(line.split())) for line in reversed(clean.splitlines()) if _WORD.search(line)),
        None,
    )


def last_words_in(log: Path, secrets: Sequence[str] = ()) -> str | None:
    """The same of a file that holds the output; None too where it cannot be read."""
    try:
        with placed_file(log) as descriptor:
            data, skipped = read_end(descriptor, _TAIL_BYTES)
    except PlacedFileError:
        return None
    # The word at the cut may be half of a secret, which would pass.
    whole = data.split(maxsplit=1)[1:] if skipped else [data]
    return last_words(b"".join(whole).decode("utf-8", "backslashreplace"), secrets)


def _says_something(line: str) -> bool:
    line = ESCAPE_CODES.sub("", line)
    readable = _NOT_TEXT.sub("", line)
    return bool(_WORD.search(readable)) and len(readable) >= len(line) * _MOST_NOT_TEXT


def _bounded(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    # Cut between words: half of a word is a word that nobody printed.
    kept, _, _ = line[: LONGEST - 1].rpartition(" ")
    return f"{kept or line[: LONGEST - 2]} …"
