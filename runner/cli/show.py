"""`runbook show`: one entry in the terminal."""

import argparse
import sys

from rich.markdown import Markdown

from runner.cli.console import console_on
from runner.entry.model import Prose, Step
from runner.entry.read import find


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("id", metavar="ID", help="an entry's id, the beginning of one, or its number")


def run(arguments: argparse.Namespace) -> int:
    """Print the entry as formatted text."""
    runbook = find(arguments.runbooks, arguments.id)
    parts = [f"# {runbook.head.number}. {runbook.head.title}", f"Severity: {runbook.head.severity.value}"]
    for section in runbook.sections:
        parts.append(f"## {section.title}")
        parts.extend(_text(part) for part in section.body)
    console_on(sys.stdout).print(Markdown("\n\n".join(parts), hyperlinks=False))
    return 0


def _text(part: Prose | Step) -> str:
    if isinstance(part, Prose):
        return part.markdown
    # A fence longer than any run of backquotes within the command.
    fence = "`" * max(3, *(len(run) + 1 for run in part.command.split("\n") if set(run) == {"`"}), 3)
    return f"Step **{part.id}**:\n\n{fence}bash\n{part.command.rstrip()}\n{fence}"
