"""`--shell`: print the lines that undo what a probe found, for a shell to `eval`, in place of its document."""

import argparse
import contextlib
import io
import json
from collections.abc import Sequence

from runner.probes.contract import OK, SYMPTOM, Probe, run_probe


def add_shell_option(parser: argparse.ArgumentParser) -> None:
    """Give a parser `--shell`."""
    parser.add_argument(
        "--shell",
        action="store_true",
        help='print only the lines that undo the findings: eval "$(… --shell)"; exit status 0 once printed',
    )


def run_or_undo(probe: Probe, argv: Sequence[str] | None = None) -> int:
    """Run the probe; with `--shell`, print its `details.undo` for `eval` in place of the document.

    Lines in `details.by_hand` are printed as comments. The document still goes to RUNBOOK_RESULT and `--output-json`.
    """
    if not probe.parser().parse_args(argv).shell:
        return run_probe(probe, argv)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = run_probe(probe, argv)
    if status not in {OK, SYMPTOM}:
        return status
    details = json.loads(printed.getvalue())["details"]
    for line in details["undo"]:
        print(line)
    # A file outlives this shell: changing it is the reader's own decision.
    for line in details["by_hand"]:
        # A line break in a path would end the comment, and what follows would run.
        print(f"# by hand: {' '.join(line.splitlines())}")
    return OK
