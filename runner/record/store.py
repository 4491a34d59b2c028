"""The data folder: one JSON file per run, at `<machine class>/<runbook id>/<UTC>-<run id>.json`.

A record is written again after every step, so a killed run leaves all its finished steps; a file is replaced
atomically. Records are redacted before they are written. Files that are read may come from others: a record must be a
regular file of a limited size, and nothing else is opened.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.bounds import RECORD_BYTES
from runner.base.errors import RecordError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import visible_line
from runner.base.units import format_bytes
from runner.record.model import Record, StepResult
from runner.record.reading import parse_record, refuse_twice
from runner.record.simulated import was_simulated

if TYPE_CHECKING:
    from runner.record.writing import Written

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# Folders above a record within the data folder: class and runbook.
_LEVELS = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One file of the data folder that cannot be used, and the reason."""

    path: Path
    message: str

    def __str__(self) -> str:
        # One line for any name: a file name may contain any character except `/` and NUL.
        return visible_line(f"{self.path}: {self.message}")


class Store:
    """Writes and reads the records under one folder."""

    def __init__(self, root: Path, secrets: Sequence[str] | None = None) -> None:
        """Use this folder; it is created when the first record is saved.

        Args:
            root: the data folder.
            secrets: words to redact in addition to the patterns; default: the names of this host.
        """
        self.root = root
        self._secrets = secrets
        self._written: Written | None = None

    @property
    def secrets(self) -> Sequence[str]:
        """The words that must not occur in a record, in addition to the patterns."""
        # Imported late, as below: who only reads needs no redaction.
        from runner.record.redaction.redact import host_secrets  # noqa: PLC0415

        return host_secrets() if self._secrets is None else self._secrets

    def path_of(self, record: Record) -> Path:
        """The path of the record.

        Raises:
            StoreError: its class, runbook or run id is not a valid file name.
        """
        started = record.started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        parts = (record.machine.machine_class, record.runbook.id, f"{started}-{record.run_id}.json")
        for part in parts:
            if not _PART.fullmatch(part):
                raise StoreError(f"{part!r} cannot name a file or folder; use letters, digits and . _ + -")
        return self.root.joinpath(*parts)

    def save(self, record: Record) -> Path:
        """Write the redacted record over its earlier state; cheap for a record with one more step.

        Raises:
            StoreError: it could not be written; the earlier file is unchanged.
        """
        path = self.path_of(record)
        try:
            data = self._written_for(record).text(record).encode()
        except UnicodeEncodeError as error:
            raise StoreError(
                f"cannot write {path}: it contains a lone surrogate, which UTF-8 cannot encode"
            ) from error
        except ValueError as error:
            raise StoreError(
                f"cannot write {path}: it contains NaN or Infinity, which JSON does not allow"
            ) from error
        if len(data) > RECORD_BYTES:
            raise StoreError(
                f"cannot write {path}: it would be larger than {format_bytes(RECORD_BYTES)}; report fewer numbers"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A record in progress must survive its process; a finished one should survive a power failure too.
            _replace(path, data, sync=record.ended_at is not None)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; the record of the run is not stored"
            ) from error
        return path

    def load(self, path: Path) -> Record:
        """Read one record.

        Raises:
            RecordError: not a regular file, too large, not a record, truncated, or written by a newer version; the
                message is one line.
        """
        return parse_record(self._bytes(path), str(path))

    def examine(self, path: Path) -> tuple[Record, bytes]:
        """Read one record for publishing, as it was written, and the exact bytes that it was parsed from.

        Raises:
            RecordError: as for `load`; also for a duplicate key, because readers may use different values.
        """
        data = self._bytes(path)
        record = parse_record(data, str(path), as_written=True)
        refuse_twice(data, str(path))
        return record, data

    def _bytes(self, path: Path) -> bytes:
        linked = [folder for folder in path.parents if self.root in folder.parents and folder.is_symlink()]
        if linked:
            raise RecordError(f"{path} is below the symbolic link {linked[-1].name}; move the folder here")
        try:
            return read_placed(path, RECORD_BYTES, links=False)
        except PlacedFileError as error:
            cannot = "cannot be read: " if error.kind in {"missing", "closed"} else ""
            raise RecordError(f"{path} {cannot}{error.why}") from error

    def records(self, runbook: str | None = None, machine_class: str | None = None) -> Iterator[Record]:
        """Every readable record, oldest first within its class and runbook; `read` also tells of the others.

        Raises:
            StoreError: the data folder cannot be listed.
        """
        for path in self.files():
            wanted = (path.parent.name, path.parent.parent.name)
            if runbook in (None, wanted[0]) and machine_class in (None, wanted[1]):
                with contextlib.suppress(RecordError):
                    yield self.load(path)

    def files(self) -> tuple[Path, ...]:
        """Paths of all files in a place for records, sorted."""
        return tuple(path for path in self._everything() if self._is_place_of_record(path))

    def read(self, problems: list[Problem]) -> Iterator[Record]:
        """Every readable record, one at a time; problems are added to the list while reading.

        Raises:
            StoreError: the data folder cannot be listed.
        """
        for path in self._everything():
            if not self._is_place_of_record(path):
                problems.append(_stray(path))
                continue
            try:
                record = self.load(path)
            except RecordError as error:
                problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
                continue
            yield record

    def strays(self) -> tuple[Problem, ...]:
        """Files that are not in a place for records."""
        return tuple(_stray(path) for path in self._everything() if not self._is_place_of_record(path))

    def _everything(self) -> list[Path]:
        """All entries of the folder down to the level of records; links are not followed."""
        found: list[Path] = []
        folders = [(self.root, 0)] if self.root.exists() else []
        for folder, level in folders:
            try:
                with os.scandir(folder) as inside:
                    entries = [entry for entry in inside if not entry.name.startswith(".")]
            except OSError as error:
                raise StoreError(f"cannot list {error.filename}: {error.strerror}") from error
            for entry in entries:
                if level < _LEVELS and entry.is_dir(follow_symlinks=False):
                    folders.append((folder / entry.name, level + 1))
                else:
                    found.append(folder / entry.name)
        # The order of sorted paths; comparing their parts is several times faster.
        return sorted(found, key=lambda path: path.parts)

    def _is_place_of_record(self, path: Path) -> bool:
        return path.name.endswith(".json") and len(path.parts) == len(self.root.parts) + _LEVELS + 1

    def _written_for(self, record: Record) -> "Written":
        from runner.record.writing import Written  # noqa: PLC0415

        if self._written is None or record.run_id != self._written.run_id:
            self._written = Written(self.secrets, record.run_id)
        return self._written


def _stray(path: Path) -> Problem:
    what = (
        "is a symbolic link, but records are regular files"
        if path.is_symlink()
        else "is not a record of this project"
    )
    return Problem(path, f"{what}; move it elsewhere")


def latest(
    records: Iterable[Record],
) -> Mapping[tuple[str, str, str, str], tuple[Record, StepResult]]:
    """The newest finished result of every step, by (machine class, runbook id, step id, preset).

    Skipped, broken and simulated steps do not count, nor does anything of a simulated run; steps of a killed run do.
    With several nodes of a class, the newest result counts.
    """
    found: dict[tuple[str, str, str, str], tuple[Record, StepResult]] = {}
    for record in sorted(records, key=lambda record: record.moment):
        for step in record.steps if not was_simulated(record) else ():
            if step.counts:
                key = (record.machine.machine_class, record.runbook.id, step.id, record.options.preset)
                found[key] = (record, step)
    return found


def _replace(path: Path, data: bytes, *, sync: bool) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(data)
            if sync:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
