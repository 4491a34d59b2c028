"""`runbook check`: validate runbooks and the commands in guides; no GPU and no torch needed."""

import argparse
import sys
from pathlib import Path

from runner.check import check
from runner.entry.read import read_paths, runbook_paths
from runner.entry.words import counted
from runner.errors import InputError

BAD_INPUT = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="runbook files (default: the whole folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one fault a line, all of them, and a count.

    Raises:
        InputError: a path that is not there.
    """
    for path in arguments.paths:
        if not path.is_file():
            raise InputError(f"{path} is no file; name a runbook, or none to check the whole folder")
    paths = tuple(arguments.paths) or runbook_paths(arguments.runbooks)
    guides = (
        () if arguments.paths else tuple(sorted((arguments.runbooks.resolve().parent / "kb").rglob("*.md")))
    )
    others = runbook_paths(arguments.runbooks) if arguments.paths and arguments.runbooks.is_dir() else ()
    faults = check(paths, guides, whole_folder=not arguments.paths, others=others, data=arguments.data)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        files = len({fault.path for fault in faults})
        print(f"{counted(len(faults), 'fault')} in {counted(files, 'file')}", file=sys.stderr)
        return BAD_INPUT
    runbooks, _ = read_paths(paths)
    steps = sum(len(runbook.steps) for runbook in runbooks)
    print(f"{counted(len(runbooks), 'entry', 'entries')} with {counted(steps, 'step')}, no faults")
    return 0
