"""`--shell`: print the commands that undo a probe's findings, for `eval` in a shell, instead of its document.

`runner.base.remedy` decides what is a command and what is a comment.
"""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from runner.base.remedy import Remedy, shell_lines
from runner.record.model import Document


def add_shell_option(parser: argparse.ArgumentParser) -> None:
    """Add `--shell` to a parser."""
    parser.add_argument(
        "--shell",
        action="store_true",
        help='print only the commands that undo the findings, for eval "$(… --shell)"; exit status 0',
    )


def undo_details(found: Iterable[Remedy]) -> dict[str, list[str]]:
    """The details that `--shell` prints: `undo`, commands for this shell, and `by_hand`."""
    every = list(found)
    return {
        "undo": [remedy.text for remedy in every if remedy.is_code],
        "by_hand": [remedy.text for remedy in every if not remedy.is_code],
    }


def undo_lines(arguments: argparse.Namespace, document: Document) -> list[str] | None:
    """With `--shell`, the lines that undo the findings, for `eval`; None to print the document.

    Lines in `details.by_hand` are comments. The document still goes to RUNBOOK_RESULT and `--output-json`.
    """
    if not arguments.shell or document.status == "not_applicable":
        return None
    details: Any = document.details
    return [_encodable(line) for line in shell_lines(details["undo"], details["by_hand"])]


def _encodable(line: str) -> str:
    # A traceback would exit with 1, a symptom.
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
