"""`runbook verify-data`: checks whether the data folder may be published."""

import argparse
import sys

from runner.base.errors import InputError
from runner.base.plain import one_line
from runner.base.words import counted
from runner.record.commits import History
from runner.record.gate import gate
from runner.record.store import Store

REFUSED = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments; `--data` selects the folder."""
    parser.description = (
        "check that every record of the data folder may be published; print one line per problem"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the problems and return 1, or print one line and return 0 if there are none.

    Raises:
        InputError: the folder does not exist or holds no record, so nothing was checked.
    """
    store = Store(arguments.data)
    if not store.root.exists():
        raise InputError(
            f"{store.root} does not exist; name the folder that holds the records with --data DIR"
        )
    if not store.files() and not store.strays():
        raise InputError(
            f"{store.root} holds no record; run an entry first, or name the right folder with --data DIR"
        )
    history = History(store.root)
    problems = gate(store, history=history)
    for problem in problems:
        print(one_line(str(problem)), file=sys.stderr)
    if history.unchecked:
        print(
            f"verify-data: note: {counted(len(history.unchecked), 'commit')} cannot be checked in a shallow clone, nor "
            "can results that depend on their entries; run git fetch --unshallow first",
            file=sys.stderr,
        )
    if problems:
        print(f"verify-data: {counted(len(problems), 'problem')}; not fit to publish", file=sys.stderr)
        return REFUSED
    paths = store.files()
    classes = {path.parent.parent for path in paths}
    of_classes = counted(len(classes), "machine class", "machine classes")
    print(f"verify-data: {counted(len(paths), 'record')} of {of_classes} fit to publish")
    return 0
