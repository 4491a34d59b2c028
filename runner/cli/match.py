"""`runbook match`: which issues a log shows, best first."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from runner.entry.read import read_all
from runner.entry.signatures import LONGEST_LINE, match_log
from runner.errors import InputError
from runner.plain import json_text

NO_MATCH = 1
_BLOCK = 1 << 20


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
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            rest = b""
            while block := file.read(_BLOCK):
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = block[end:]
                elif len(rest) <= LONGEST_LINE:
                    rest += block
            if rest:
                yield rest
    except OSError as error:
        raise InputError(
            f"cannot read {name}: {error.strerror}; name a log file, or - for standard input"
        ) from error


def _printable(text: str) -> str:
    """Escape codes in a log must not reach the terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "·" for character in text)[
        :200
    ]
