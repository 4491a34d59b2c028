"""The gate for a data folder: checks every record, its place, and that no two records are duplicates."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runner.base.errors import RecordError, StoreError
from runner.record.commits import History
from runner.record.gate.identity import identities
from runner.record.gate.record import record_problems
from runner.record.model import Record
from runner.record.store import Problem, Store
from runner.record.tracked_files import carried


def gate(store: Store, now: datetime | None = None, history: History | None = None) -> tuple[Problem, ...]:
    """Everything that prevents publishing of the data folder, in file order; empty if there is no problem.

    Args:
        store: the data folder.
        now: no time in a record may be later than this; default: the current time.
        history: of the repository that contains the folder; default: found from the folder.

    Raises:
        StoreError: the folder cannot be listed, or git refuses its repository.
    """
    now = now or datetime.now(UTC)
    history = history or History(store.root)
    paths = store.files()
    # Files that are not records; unreadable records are handled below.
    problems = [*store.strays(), *(Problem(path, message) for path, message in carried(store.root))]
    if not paths:
        problems.append(
            Problem(store.root, "has no records; run an entry first, there is nothing to publish")
        )
    seen: dict[tuple[object, ...], Path] = {}
    for path in paths:
        try:
            record, _ = store.examine(path)
        except RecordError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        problems += [
            Problem(path, message) for message in record_problems(record, now, store.secrets, history)
        ]
        problems += [Problem(path, message) for message in _misplaced(store, path, record)]
        for key, what in identities(record):
            other = seen.setdefault(key, path)
            if other != path:
                problems.append(
                    Problem(path, f"has {what} {other}; a run may be published only once, delete one")
                )
                break
    return tuple(sorted(problems))


def _misplaced(store: Store, path: Path, record: Record) -> Iterator[str]:
    try:
        right = store.path_of(record)
    except StoreError as error:
        yield str(error)
        return
    if right != path:
        yield f"belongs at {right.relative_to(store.root)}; move it there"
