"""The gate for a data folder: checks every record, its place, and that no two records are duplicates."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runner.base.errors import RecordError, StoreError
from runner.record.commits import History
from runner.record.gate.record import identities, record_problems
from runner.record.model import Record
from runner.record.source import git
from runner.record.store import Problem, Store

_PLAIN = frozenset({"100644", "100755"})
_KINDS = {"120000": "a symbolic link", "160000": "a submodule"}
_KEPT = ".gitkeep"


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
    problems = [*store.strays(), *(Problem(path, message) for path, message in _tracked(store.root))]
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


def _tracked(root: Path) -> Iterator[tuple[Path, str]]:
    """Paths of the data folder that git must not contain, and why; none if the folder is not in a repository.

    A git control file such as `.gitattributes` could make git store other bytes than those that were checked.
    """
    place = root.absolute()
    listed = git(place.parent, "--literal-pathspecs", "ls-files", "--stage", "-z", "--", place.name)
    for row in (listed or b"").split(b"\0"):
        head, _, name = row.partition(b"\t")
        path = place.parent / os.fsdecode(name)
        mode = head.partition(b" ")[0].decode()
        if not row:
            continue
        if mode not in _PLAIN:
            yield (
                path,
                f"is {_KINDS.get(mode, 'not a file')} in git, but records are plain files; remove it with git rm",
            )
        elif path.name.startswith(".") and path.name != _KEPT:
            yield path, "is a hidden file in git, not a record; remove it with git rm"
