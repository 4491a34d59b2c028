"""Reads runbooks from folders. The only place in `entry` that touches files.

Where several folders are given, an entry of a later one replaces the entry with the same id in an earlier one.
"""

from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import Fault, InputError, RunbookFaultsError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.places import SHIPPED, shipped_docs
from runner.base.words import nearest
from runner.entry.model import Runbook
from runner.entry.parse import parse

LARGEST = 1 << 20
# A slip of one key must not start an entry, and no entry has a number of so many digits.
_SHORTEST, _LONGEST_NUMBER = 3, 9


def read_runbook(path: Path) -> Runbook:
    """Read and parse one runbook.

    Raises:
        RunbookFaultsError: every fault of the file: unreadable, empty, too large, binary, not UTF-8, not to the format.
    """
    return parse(_text(path), path)


def read_all(folders: Path | Sequence[Path]) -> tuple[Runbook, ...]:
    """Every runbook of a folder or of several, by number.

    Raises:
        InputError: a folder is not there or holds no runbook.
        RunbookFaultsError: the faults of all files together, duplicate ids and numbers and dead links included.
    """
    paths = runbook_paths(folders)
    runbooks, faults = read_paths(paths)
    faults += folder_faults(runbooks)
    if faults:
        raise RunbookFaultsError(tuple(sorted(faults)))
    return runbooks


def read_paths(paths: tuple[Path, ...]) -> tuple[tuple[Runbook, ...], tuple[Fault, ...]]:
    """The runbooks that parse, by number, and the faults of those that do not."""
    runbooks: list[Runbook] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            runbooks.append(read_runbook(path))
        except RunbookFaultsError as error:
            faults.extend(error.faults)
    return tuple(sorted(runbooks, key=lambda runbook: runbook.head.number)), tuple(faults)


def runbook_paths(folders: Path | Sequence[Path]) -> tuple[Path, ...]:
    """The runbook files of a folder, or of several, by name; an entry's id is the name of its file.

    Raises:
        InputError: a folder is not there or holds none, or there is no folder.
    """
    found: dict[str, Path] = {}
    for folder in (folders,) if isinstance(folders, Path) else folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name a folder of entries with --runbooks DIR")
        paths = {path.name: path for path in folder.glob("*.md") if not path.name.startswith(".")}
        if not paths:
            raise InputError(f"{folder} holds no entry (*.md); name the right folder with --runbooks DIR")
        found |= paths
    if not found:
        raise InputError("this installation has no entries; name a folder of entries with --runbooks DIR")
    return tuple(found[name] for name in sorted(found))


def folder_faults(runbooks: tuple[Runbook, ...]) -> tuple[Fault, ...]:
    """What only shows with all entries in view: numbers and former ids used twice, links to what is not there."""
    faults: list[Fault] = list(_number_faults(runbooks))
    ids = {runbook.id for runbook in runbooks}
    former: dict[str, Runbook] = {}
    for runbook in runbooks:
        head = runbook.head
        for name in head.formerly:
            if name in ids or former.setdefault(name, runbook) is not runbook:
                other = name if name in ids else former[name].id
                message = f"formerly {name!r} is also an id of {other}; an address leads to one entry"
                faults.append(Fault(runbook.path, _line_of(runbook, "formerly"), message))
        faults.extend(
            Fault(
                runbook.path,
                _line_of(runbook, "related"),
                f"related names no entry {name!r}{nearest(name, ids)}",
            )
            for name in head.related
            if name not in ids
        )
        if head.guide is not None and not any(path.is_file() for path in _guides(runbook)):
            faults.append(
                Fault(
                    runbook.path,
                    _line_of(runbook, "guide"),
                    f"the guide {head.guide!r} does not exist under kb/; write it, or correct the path",
                )
            )
    return tuple(faults)


def find(folders: Path | Sequence[Path], name: str) -> Runbook:
    """The runbook with this id or number, or the only one whose id begins with these three or more letters.

    Other entries may be broken: they are not read.

    Raises:
        InputError: no such entry, or several whose id begins so; the message names the nearest, or those.
        RunbookFaultsError: the entry has faults, or another entry has its number.
    """
    paths = runbook_paths(folders)
    for path in paths:
        if path.stem == name:
            return read_runbook(path)
    if name.isdecimal() and len(name) <= _LONGEST_NUMBER:
        runbooks, faults = read_paths(paths)
        found = tuple(runbook for runbook in runbooks if runbook.head.number == int(name))
        if len(found) > 1:
            raise RunbookFaultsError(_number_faults(found))
        if found:
            return found[0]
        if faults:
            raise RunbookFaultsError(faults)
        known = ", ".join(f"{runbook.head.number} {runbook.id}" for runbook in runbooks)
        raise InputError(f"no entry has number {name}; there are {known}")
    begun = [path for path in paths if len(name) >= _SHORTEST and path.stem.startswith(name.lower())]
    if len(begun) == 1:
        return read_runbook(begun[0])
    if begun:
        candidates = ", ".join(path.stem for path in begun)
        raise InputError(f"{name!r} begins several ids; use one of {candidates}")
    raise InputError(f"no entry {name!r}{nearest(name, [path.stem for path in paths])}")


def _number_faults(runbooks: Sequence[Runbook]) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    numbers: dict[int, Runbook] = {}
    # The fault is that of the entry that its author can change, not of a built-in one.
    for runbook in sorted(runbooks, key=lambda one: one.path.resolve().parents[1].name != SHIPPED):
        number = runbook.head.number
        other = numbers.setdefault(number, runbook)
        if other is not runbook:
            # Beside a built-in entry, the name alone does not say where the other one is.
            same = other.path.parent == runbook.path.parent
            message = (
                f"number {number} is also that of {other.path.name if same else other.path}; choose another"
            )
            faults.append(Fault(runbook.path, _line_of(runbook, "number"), message))
    return tuple(faults)


def _guides(runbook: Runbook) -> tuple[Path, ...]:
    """Where an entry's guide may be: beside the folder of the entry, or among the built-in ones."""
    name = runbook.head.guide or ""
    return (runbook.path.resolve().parents[1] / "kb" / name, shipped_docs() / name)


def _line_of(runbook: Runbook, key: str) -> int:
    lines = _text(runbook.path).splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.startswith(f"{key}:")), 1)


def _text(path: Path) -> str:
    def refuse(message: str, line: int = 1) -> RunbookFaultsError:
        return RunbookFaultsError((Fault(path, line, message),))

    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise refuse("this is a link that leaves the folder; put the file itself here")
    try:
        data = read_placed(path, LARGEST)
    except PlacedFileError as error:
        if error.kind == "large":
            why = f"larger than {LARGEST >> 20} MiB; a runbook is text for a person: move data into its own file"
            raise refuse(why) from error
        raise refuse(f"cannot be read: {error.why}") from error
    if b"\0" in data:
        raise refuse("not text: it holds NUL bytes", data[: data.index(b"\0")].count(b"\n") + 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refuse(f"not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8", line) from error
    if not text.strip():
        raise refuse("empty; begin with --- lines around id, number and title")
    return text
