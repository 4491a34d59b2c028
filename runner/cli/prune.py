"""`runbook prune`: lists or deletes the records that are no longer needed."""

import argparse

from runner.base.errors import RecordError, StoreError
from runner.base.plain import one_line
from runner.base.words import counted
from runner.entry.read import read_all
from runner.history.prune import needed
from runner.record.store import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = "list the records that no page and no trend needs; with --delete, delete only them"
    parser.add_argument("--delete", action="store_true", help="delete them (default: only list them)")


def run(arguments: argparse.Namespace) -> int:
    """List or delete the records and print the total; files that are not readable records stay.

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
                    f"cannot delete {path}: {error.strerror}; the records listed before it are deleted"
                ) from error
    if not surplus:
        print(f"prune: all {counted(len(records), 'record')} needed")
        return 0
    done = "deleted" if arguments.delete else "not needed; none was deleted, use --delete to delete them"
    print(f"prune: {len(surplus)} of {counted(len(records), 'record')} ({size / 1e6:.1f} MB) {done}")
    return 0
