"""`runbook verify-data`: may the data folder be published?"""

import argparse
import sys

from runner.entry.words import counted
from runner.evidence.gate import gate
from runner.evidence.history import History
from runner.evidence.store import Store
from runner.plain import one_line

MAY_NOT = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: `--data` says which folder."""
    parser.description = "Check that every record of the data folder may be published; one line a problem."


def run(arguments: argparse.Namespace) -> int:
    """Print the problems and return 1, or one line and 0 where there are none."""
    store = Store(arguments.data)
    history = History(store.root)
    problems = gate(store, history=history)
    for problem in problems:
        print(one_line(str(problem)), file=sys.stderr)
    if history.unchecked:
        print(
            f"verify-data: note: {counted(len(history.unchecked), 'commit')} cannot be checked in a shallow clone, nor "
            "what depends on the entries there; git fetch --unshallow brings them",
            file=sys.stderr,
        )
    if problems:
        print(f"verify-data: {counted(len(problems), 'problem')}; not fit to publish", file=sys.stderr)
        return MAY_NOT
    paths = store.files()
    classes = {path.parent.parent for path in paths}
    of_classes = counted(len(classes), "machine class", "machine classes")
    print(f"verify-data: {counted(len(paths), 'record')} of {of_classes} fit to publish")
    return 0
