"""The last meaningful line of a program's output, which usually tells why it ended."""

import re
from collections.abc import Sequence
from pathlib import Path

from runner.base.placed import PlacedFileError, placed_file, read_end
from runner.base.plain import ESCAPE_CODES
from runner.record.redaction.redact import redact_text

LONGEST = 240
_TAIL_BYTES = 4096
# The escapes by which `OutputWindow` represents bytes that are not UTF-8, and control characters.
_NOT_TEXT = re.compile(r"\\x[0-9a-f]{2}|[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")
_WORD = re.compile(r"[^\W\d_]{2}")
_MOST_NOT_TEXT = 0.5


def last_words(output: str, secrets: Sequence[str] = ()) -> str | None:
    r"""The last meaningful line, redacted, as one line of at most `LONGEST` characters; None without one.

    `\r` ends a line like `\n`, so the last state of a progress bar counts. Escape sequences are removed. Lines without
    a word (rulers, carets) and lines of mostly binary data are skipped.

    Args:
        output: the output of a program, as captured by `runner.run.output`.
        secrets: further words to redact (`runner.record.redaction.redact.host_secrets`).
    """
    # Redacted as a whole, because some secrets span lines and a part of one would not be recognised. Binary lines are
    # removed before, while they can still be recognised.
    lines = (line for line in re.split(r"[\r\n]+", output) if _says_something(line))
    clean = redact_text("\n".join(lines), secrets)
    return next(
        (_bounded(" ".join(line.split())) for line in reversed(clean.splitlines()) if _WORD.search(line)),
        None,
    )


def last_words_in(log: Path, secrets: Sequence[str] = ()) -> str | None:
    """The same for a file of output; also None if it cannot be read."""
    try:
        with placed_file(log) as descriptor:
            data, skipped = read_end(descriptor, _TAIL_BYTES)
    except PlacedFileError:
        return None
    # The word at the cut may be a part of a secret, which redaction would not recognise.
    whole = data.split(maxsplit=1)[1:] if skipped else [data]
    return last_words(b"".join(whole).decode("utf-8", "backslashreplace"), secrets)


def _says_something(line: str) -> bool:
    line = ESCAPE_CODES.sub("", line)
    readable = _NOT_TEXT.sub("", line)
    return bool(_WORD.search(readable)) and len(readable) >= len(line) * _MOST_NOT_TEXT


def _bounded(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    # Cut between words: a partial word would misquote the program.
    kept, _, _ = line[: LONGEST - 1].rpartition(" ")
    return f"{kept or line[: LONGEST - 2]} …"
