"""Adds new records to a data folder as long as the folder still passes the gate; refuses the others one by one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import StoreError
from runner.record.gate import gate
from runner.record.model import Record
from runner.record.store import Problem, Store


@dataclass(frozen=True)
class Candidate:
    """A record that passes the gate on its own: its source file, and the bytes that were checked."""

    source: Path
    record: Record
    data: bytes


def admit(wanted: Mapping[Path, Candidate], store: Store, refused: list[Problem]) -> dict[Path, Candidate]:
    """Write the records that pass the gate together with the existing ones; add the others to `refused`, one by one.

    Raises:
        StoreError: the data folder does not pass without them, or a file cannot be written; no new record is left.
    """
    if not _trouble_with(wanted, store):
        return dict(wanted)
    problems = gate(store) if store.files() else ()
    if problems:
        raise StoreError(f"the data folder does not pass the gate: {problems[0]}")
    good: dict[Path, Candidate] = {}
    # Bisection, so that one bad record among many costs few checks of the whole folder.
    groups = _halves(sorted(wanted))
    try:
        while groups:
            paths = groups.pop()
            group = {path: wanted[path] for path in paths}
            problems = _trouble_with(group, store)
            if not problems:
                good |= group
            elif len(paths) > 1:
                groups += _halves(paths)
            else:
                (path,) = paths
                problem = next((one for one in problems if one.path == path), problems[0])
                said = problem.message if problem.path == path else f"conflicts with {problem}"
                refused.append(Problem(wanted[path].source, said))
    except BaseException:
        remove(good)
        raise
    return good


def _trouble_with(group: Mapping[Path, Candidate], store: Store) -> tuple[Problem, ...]:
    """The gate's problems with these records added to the existing ones; if there are any, the records are removed."""
    _write(group)
    problems: tuple[Problem, ...] | None = None
    try:
        problems = gate(store)
    finally:
        if problems != ():
            remove(group)
    return problems


def _halves(paths: list[Path]) -> list[list[Path]]:
    """The two halves, the second one first, because callers pop from the end."""
    middle = (len(paths) + 1) // 2
    return [half for half in (paths[middle:], paths[:middle]) if half]


def _write(wanted: Mapping[Path, Candidate]) -> None:
    done: list[Path] = []
    for path, candidate in wanted.items():
        try:
            _make_folder(path.parent)
            # Exclusive: a record is never rewritten, and a link in its place is not followed.
            with path.open("xb") as file:
                done.append(path)
                file.write(candidate.data)
        except BaseException as error:
            remove(done)
            if isinstance(error, OSError):
                message = f"cannot write {path}: {error.strerror}; nothing was committed"
                raise StoreError(message) from error
            raise


def _make_folder(folder: Path) -> None:
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for one in (folder.parent, folder):
        if one.is_symlink():
            raise StoreError(f"{one} is a symbolic link and leads out of the data folder; remove it")
        one.mkdir(exist_ok=True)


def remove(paths: Collection[Path]) -> None:
    """Delete written records."""
    for path in paths:
        path.unlink(missing_ok=True)
