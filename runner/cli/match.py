"""`runbook match`: which issues a log shows, best first."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runner.entry.read import read_all
from runner.entry.signatures import LONGEST_LINE, match_log
from runner.errors import InputError
from runner.placed import PlacedFileError, placed_file
from runner.plain import json_text
from runner.units import format_bytes

NO_MATCH = 1
_BLOCK = 1 << 20
# A device has no end.
_MOST_BYTES = 16 << 30


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("log", metavar="FILE|-", help="a log file, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON list with the matching lines")


def run(arguments: argparse.Namespace) -> int:
    """Print a line an entry: id, score, the first matching line. Exit status 1 where nothing matches.

    Raises:
        InputError: the log cannot be read.
    """
    runbooks = read_all(arguments.runbooks)
    matches = match_log(_blocks(arguments.log), runbooks)
    if arguments.json:
        print(json_text([dataclasses.asdict(match) for match in matches]))
    else:
        for match in matches:
            hit = match.hits[0]
            print(f"{match.runbook_id}\t{match.score}\t{hit.number}: {_printable(hit.text)}")
    if not matches:
        print("no entry's signature is in this log", file=sys.stderr)
        return NO_MATCH
    return 0


def _blocks(name: str) -> Iterator[bytes]:
    """The log in pieces of whole lines. Of a line without an end never more than a block is held in memory."""
    try:
        with _opened(name) as file:
            rest, left = b"", _MOST_BYTES
            while block := file.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise InputError(f"{name} is larger than {format_bytes(_MOST_BYTES)}; give its last part")
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = block[end:]
                elif len(rest) <= LONGEST_LINE:
                    rest += block
            if rest:
                yield rest
    except (OSError, PlacedFileError) as error:
        why = error.why if isinstance(error, PlacedFileError) else error.strerror
        raise InputError(f"cannot read {name}: {why}; name a log file, or - for standard input") from error


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    with (
        placed_file(Path(name), pipes=True) as descriptor,
        os.fdopen(descriptor, "rb", closefd=False) as file,
    ):
        yield file


def _printable(text: str) -> str:
    """Escape codes in a log must not reach the terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "·" for character in text)[
        :200
    ]
