"""`runbook guard`: lists the guards for a training job, or prints one as the file that the job needs."""

import argparse
import sys

from rich.text import Text

from runner.base.errors import InputError
from runner.base.plain import json_text
from runner.base.words import nearest
from runner.cli.console import console_on
from runner.cli.rows import aligned
from runner.entry.guard_files import GuardFile, guard_files
from runner.entry.read import read_all


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "List the guards for a training job, or print one: runbook guard NAME > NAME.py. A guard is one file that "
        "needs Python and torch alone; copy it beside the job's own code, or import it from an installed runbook."
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this guard's file")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or one file.

    Raises:
        InputError: there is no guard of this name.
    """
    guards = guard_files()
    if arguments.name is not None:
        _print_file(_named(arguments.name, guards))
        return 0
    runbooks = read_all(arguments.runbooks)
    used = {guard.name: [one.id for one in guard.entries(runbooks)] for guard in guards}
    if arguments.json:
        listed = [
            {
                "name": guard.name,
                "summary": guard.summary,
                "lines": guard.lines,
                "import": guard.imported,
                "entries": used[guard.name],
            }
            for guard in guards
        ]
        print(json_text(listed))
        return 0
    rows = [
        (
            Text(guard.name),
            Text(f"{guard.lines} lines"),
            Text(", ".join(used[guard.name])),
            Text(guard.summary),
        )
        for guard in guards
    ]
    console = console_on(sys.stdout)
    for row in aligned(rows, console.width if sys.stdout.isatty() else None, 4):
        console.print(row, soft_wrap=True)
    print(
        "Print one into a file beside the job's code: runbook guard NAME > NAME.py"
        if rows
        else "no guards here"
    )
    return 0


def _named(name: str, guards: tuple[GuardFile, ...]) -> GuardFile:
    names = [guard.name for guard in guards]
    for guard in guards:
        if guard.name == name:
            return guard
    known = f"use one of {', '.join(names)}" if names else "this version has none"
    raise InputError(f"no guard {name!r}{nearest(name, names)}; {known}")


def _print_file(guard: GuardFile) -> None:
    # Python reads a file as UTF-8 whatever the locale of the shell that wrote it.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8")
    sys.stdout.write(guard.text)
