"""Takes new records into a data folder as far as it then still passes the gate; the others stay out, one by one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.errors import StoreError
from runner.evidence.gate import gate
from runner.evidence.record import Record
from runner.evidence.store import Problem, Store


@dataclass(frozen=True)
class Candidate:
    """A record that is fit as far as it alone can say: where it came from, and the bytes that were checked."""

    source: Path
    record: Record
    data: bytes


def admit(wanted: Mapping[Path, Candidate], store: Store, refused: list[Problem]) -> dict[Path, Candidate]:
    """Write the records that pass the gate together with what is there; the others go to `refused`, one by one.

    Raises:
        StoreError: the data folder does not pass without them, or a file cannot be written; none is left then.
    """
    if not _trouble_with(wanted, store):
        return dict(wanted)
    problems = gate(store) if store.files() else ()
    if problems:
        raise StoreError(f"the data folder would not pass the gate: {problems[0]}")
    good: dict[Path, Candidate] = {}
    # Halves, so that one bad record among many costs few looks at the whole folder.
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
                said = problem.message if problem.path == path else f"does not go with {problem}"
                refused.append(Problem(wanted[path].source, said))
    except BaseException:
        remove(good)
        raise
    return good


def _trouble_with(group: Mapping[Path, Candidate], store: Store) -> tuple[Problem, ...]:
    """What the gate says with these records beside what is there; where it says anything they are gone again."""
    _write(group)
    problems: tuple[Problem, ...] | None = None
    try:
        problems = gate(store)
    finally:
        if problems != ():
            remove(group)
    return problems


def _halves(paths: list[Path]) -> list[list[Path]]:
    """Two halves, the second one first: they are taken from the end."""
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
            raise StoreError(f"{one} is a symbolic link; records would leave the data folder, take it out")
        one.mkdir(exist_ok=True)


def remove(paths: Collection[Path]) -> None:
    """Take written records away again."""
    for path in paths:
        path.unlink(missing_ok=True)
