"""`runbook check`: validate runbooks and the commands in guides; no GPU and no torch needed."""

import argparse
import sys
from pathlib import Path

from runner.base.errors import InputError
from runner.base.words import counted
from runner.check.faults import check
from runner.entry.read import read_paths, runbook_paths

BAD_INPUT = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="files of entries (default: the whole folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print every fault, one per line, and the count.

    Raises:
        InputError: a path that does not exist.
    """
    for path in arguments.paths:
        if not path.is_file():
            raise InputError(
                f"{path} is not a file; name the file of an entry, or omit PATH to check the whole folder"
            )
    paths = tuple(arguments.paths) or runbook_paths(arguments.runbooks)
    # An added entry may replace a built-in one that a built-in guide refers to: only the added folder is the reader's.
    folders = [folder.resolve().parent / "kb" for folder in arguments.runbooks[-1:]]
    guides = (
        () if arguments.paths else tuple(sorted(path for folder in folders for path in folder.rglob("*.md")))
    )
    there = all(folder.is_dir() for folder in arguments.runbooks)
    others = runbook_paths(arguments.runbooks) if arguments.paths and there else ()
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
