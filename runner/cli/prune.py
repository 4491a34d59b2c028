"""`runbook prune`: the records that nothing needs any more, shown or deleted."""

import argparse

from runner.entry.read import read_all
from runner.entry.words import counted
from runner.errors import RecordError, StoreError
from runner.evidence.prune import needed
from runner.evidence.store import Store
from runner.plain import one_line


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = "List the records that no page and no trend needs; no other file is touched."
    parser.add_argument("--delete", action="store_true", help="delete them; without it they are only listed")


def run(arguments: argparse.Namespace) -> int:
    """List or delete, and say how much that is; files that are no readable records stay.

    Raises:
        StoreError: a file cannot be deleted.
    """
    store = Store(arguments.data)
    records = {}
    for path in store.files():
        try:
            records[path] = store.load(path)
        except RecordError:
            continue
    keep = needed(read_all(arguments.runbooks), list(records.values()))
    surplus = [path for path, record in records.items() if record.run_id not in keep]
    size = sum(path.stat().st_size for path in surplus)
    for path in surplus:
        print(one_line(str(path)))
        if arguments.delete:
            try:
                path.unlink()
            except OSError as error:
                raise StoreError(
                    f"cannot delete {path}: {error.strerror}; those before it are gone"
                ) from error
    done = "deleted" if arguments.delete else "not needed; nothing was deleted, do it with --delete"
    print(f"prune: {counted(len(surplus), 'record')} of {len(records)} ({size / 1e6:.1f} MB) {done}")
    return 0
