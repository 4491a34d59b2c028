"""`--shell`: print the commands that undo a probe's findings, for `eval` in a shell, instead of its document.

`runner.base.remedy` decides what is a command and what is a comment.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterable, Sequence

from runner.base.remedy import Remedy, shell_lines
from runner.kit.probe import OK, SYMPTOM, Probe, run_probe


def add_shell_option(parser: argparse.ArgumentParser) -> None:
    """Add `--shell` to a parser."""
    parser.add_argument(
        "--shell",
        action="store_true",
        help='print only the commands that undo the findings, for eval "$(… --shell)"; exit status 0',
    )


def remedies(found: Iterable[Remedy]) -> dict[str, list[str]]:
    """The details that `--shell` prints: `undo`, commands for this shell, and `by_hand`."""
    every = list(found)
    return {
        "undo": [remedy.text for remedy in every if remedy.is_code],
        "by_hand": [remedy.text for remedy in every if not remedy.is_code],
    }


def run_or_undo(probe: Probe, argv: Sequence[str] | None = None) -> int:
    """Run the probe; with `--shell`, print its `details.undo` for `eval` instead of the document.

    Lines in `details.by_hand` are printed as comments. The document still goes to RUNBOOK_RESULT and `--output-json`.
    """
    if not probe.arguments(argv).shell:
        return run_probe(probe, argv)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = run_probe(probe, argv)
    if status not in {OK, SYMPTOM}:
        return status
    details = json.loads(printed.getvalue())["details"]
    for line in shell_lines(details["undo"], details["by_hand"]):
        print(_encodable(line))
    return OK


def _encodable(line: str) -> str:
    # A traceback would exit with 1, a symptom.
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
