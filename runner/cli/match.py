"""`runbook match`: which issues a log shows, what the matching lines mean, and what to type next."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, placed_file
from runner.base.plain import json_text, one_line
from runner.base.screen import tell_trouble
from runner.base.units import format_bytes
from runner.entry.by_hand import by_hand_block
from runner.entry.log_forms import Log
from runner.entry.model import Runbook
from runner.entry.read import read_all
from runner.entry.signatures import Hit, Match, match_log

NO_MATCH = 1
_BLOCK = 1 << 20
# A device has no end.
_MOST_BYTES = 16 << 30
_SHOWN_CHARACTERS = 200
_BEFORE_CHARACTERS = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "log", metavar="FILE|-", help="a log file (also gzip, xz, bzip2 or UTF-16), or - for standard input"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list with the matching lines")


def run(arguments: argparse.Namespace) -> int:
    """Print each entry that matches, its lines and their meaning, and the next command. Exit status 1 without a match.

    Raises:
        InputError: the log cannot be read, is empty, or is not a text.
    """
    runbooks = read_all(arguments.runbooks)
    log = Log(arguments.log, _chunks(arguments.log))
    matches = match_log(log.text(), runbooks)
    name = "standard input" if arguments.log == "-" else arguments.log
    if not matches:
        _refuse_unknown(log, name)
    elif log.incomplete:
        tell_trouble(f"{name} was read only in part: {log.incomplete}")
    if arguments.json:
        print(json_text([dataclasses.asdict(match) for match in matches]))
    else:
        entries = {runbook.id: runbook for runbook in runbooks}
        for line in _told([(match, entries[match.runbook_id]) for match in matches]):
            print(line)
    if not matches:
        next_commands = "`runbook diagnose` checks this node, `runbook list` shows the entries"
        print(f"no entry's signature is in this log; {next_commands}", file=sys.stderr)
        return NO_MATCH
    return 0


def _refuse_unknown(log: Log, name: str) -> None:
    """Without a match, say what kept the log from being read; only a whole text can be without a match."""
    if log.incomplete:
        raise InputError(
            f"{name} was read only in part, without a match: {log.incomplete}; copy the file again"
        )
    if not log.size:
        raise InputError(f"{name} is empty; name the file that holds the log")
    if log.binary:
        raise InputError(f"{name} is not a text log (it begins with binary data); name a text log")


def _told(found: Sequence[tuple[Match, Runbook]]) -> Iterator[str]:
    for place, (match, runbook) in enumerate(found, start=1):
        yield f"{place}. {match.runbook_id} (score {match.score}): {one_line(runbook.head.title)}"
        means = None
        for hit in match.hits:
            if hit.means and hit.means != means:
                yield f"   {one_line(hit.means)}:"
                means = hit.means
            yield f"   line {hit.number}: {_printable(_excerpt(hit))}"
    for _, runbook in found[:1]:
        if block := by_hand_block(runbook):
            yield f"\nBy hand, for {runbook.id}:\n\n{block}\n"
        yield f"Next: runbook show {runbook.id}    the whole entry"
        yield f"      runbook diagnose{' ' * (len(runbook.id) - 3)}    whether this node has the issue; only reads"


def _excerpt(hit: Hit) -> str:
    """The part of the line that matched, with some text before it; `…` where text is left out."""
    start = hit.start - _BEFORE_CHARACTERS if hit.end > _SHOWN_CHARACTERS else 0
    start = max(0, min(start, len(hit.text) - _SHOWN_CHARACTERS))
    end = start + _SHOWN_CHARACTERS
    return ("…" if start else "") + hit.text[start:end] + ("…" if end < len(hit.text) else "")


def _chunks(name: str) -> Iterator[bytes]:
    try:
        with _opened(name) as file:
            left = _MOST_BYTES
            while chunk := file.read(_BLOCK):
                left -= len(chunk)
                if left < 0:
                    raise InputError(
                        f"{name} is larger than {format_bytes(_MOST_BYTES)}; "
                        "match its last part with tail -c 1G FILE | runbook match -"
                    )
                yield chunk
    except (OSError, PlacedFileError) as error:
        why = error.why if isinstance(error, PlacedFileError) else error.strerror
        shown = name or repr(name)
        raise InputError(f"cannot read {shown}: {why}; name a log file, or - for standard input") from error


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; name a log file")
        yield sys.stdin.buffer
        return
    with (
        placed_file(Path(name), pipes=True) as descriptor,
        os.fdopen(descriptor, "rb", closefd=False) as file,
    ):
        yield file


def _printable(text: str) -> str:
    """Escape codes in a log must not reach the terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "·" for character in text)
