"""The data folder: one JSON file a run, at `<machine class>/<runbook id>/<UTC>-<run id>.json`.

A record is written anew after every step, so a killed run leaves all its finished steps; a file is replaced as a
whole or not at all. What is written has been redacted first.
"""

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.errors import DocumentError, RecordError, StoreError
from runner.evidence.measure import parse_json
from runner.evidence.record import SCHEMA_VERSION, Record, StepResult
from runner.evidence.redact import host_secrets, redact_head, redact_step

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_INDENT = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One file of the data folder that cannot be used, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Store:
    """Writes and reads the records under one folder."""

    def __init__(self, root: Path, secrets: Sequence[str] | None = None) -> None:
        """Take the folder; it is made when the first record is saved.

        Args:
            root: the data folder.
            secrets: words to redact beside the patterns; this host's own names when left out.
        """
        self.root = root
        self._secrets = secrets
        self._run_id = ""
        # Steps of the run being written, with their redacted JSON: a finished step does not change.
        self._written: list[tuple[StepResult, str]] = []

    @property
    def secrets(self) -> Sequence[str]:
        """The words that may stand in no record, beside what the patterns find."""
        return host_secrets() if self._secrets is None else self._secrets

    def path_of(self, record: Record) -> Path:
        """Where the record belongs.

        Raises:
            StoreError: its class, runbook or run id could not be the name of a file.
        """
        started = record.started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        parts = (record.machine.machine_class, record.runbook.id, f"{started}-{record.run_id}.json")
        for part in parts:
            if not _PART.fullmatch(part):
                raise StoreError(f"{part!r} cannot name a file or folder; use letters, digits and . _ + -")
        return self.root.joinpath(*parts)

    def save(self, record: Record) -> Path:
        """Write the record in the place of its earlier state, redacted; cheap for a record with one more step.

        Raises:
            StoreError: it could not be written; the earlier file stands as it was.
        """
        path = self.path_of(record)
        try:
            text = self._serialised(record)
        except ValueError as error:
            raise StoreError(
                f"cannot write {path}: it would hold NaN or Infinity, which JSON has not"
            ) from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A record in progress must outlive its process; a finished one should outlive a power cut too.
            _replace(path, text, sync=record.ended_at is not None)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; the run's record is not stored"
            ) from error
        return path

    def load(self, path: Path) -> Record:
        """Read one record.

        Raises:
            RecordError: not a record, truncated, or written by a newer version; the message is one line.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror}") from error
        return parse_record(data, str(path))

    def records(self, runbook: str | None = None, machine_class: str | None = None) -> Iterator[Record]:
        """Every readable record, oldest first within its class and runbook; others are left to `problems`.

        Raises:
            StoreError: the data folder cannot be listed.
        """
        for path in self.files():
            wanted = (path.parent.name, path.parent.parent.name)
            if runbook in (None, wanted[0]) and machine_class in (None, wanted[1]):
                with contextlib.suppress(RecordError):
                    yield self.load(path)

    def files(self) -> tuple[Path, ...]:
        """Paths of all files that stand where a record may stand, sorted."""
        return tuple(path for path in self._everything() if self._is_place_of_record(path))

    def problems(self) -> tuple[Problem, ...]:
        """Files that are no records, and records that cannot be read; hidden files (and leftovers) do not count."""
        found: list[Problem] = []
        for _ in self.read(found):
            pass
        return tuple(found)

    def read(self, problems: list[Problem]) -> Iterator[Record]:
        """Every readable record, one at a time; what `problems` finds is added to the list on the way.

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
        """Files that stand where no record may stand."""
        return tuple(_stray(path) for path in self._everything() if not self._is_place_of_record(path))

    def _everything(self) -> list[Path]:
        found: list[Path] = []

        def refuse(error: OSError) -> None:
            raise StoreError(f"cannot list {error.filename}: {error.strerror}") from error

        if not self.root.exists():
            return found
        for folder, folders, names in os.walk(self.root, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(folder, name) for name in names if not name.startswith(".")]
        # As sorted paths would stand; comparing their parts is several times quicker.
        return sorted(found, key=lambda path: path.parts)

    def _is_place_of_record(self, path: Path) -> bool:
        return path.name.endswith(".json") and len(path.parts) == len(self.root.parts) + 3

    def _serialised(self, record: Record) -> str:
        secrets = self.secrets
        head = redact_head(record.model_copy(update={"steps": ()}), secrets).model_dump(mode="json")
        fields = {name: _dump(value, _INDENT) for name, value in head.items()}
        steps = self._step_fragments(record, secrets)
        if steps:
            fields["steps"] = "[\n    " + ",\n    ".join(steps) + "\n  ]"
        return (
            "{\n" + ",\n".join(f"  {json.dumps(name)}: {fields[name]}" for name in sorted(fields)) + "\n}\n"
        )

    def _step_fragments(self, record: Record, secrets: Sequence[str]) -> list[str]:
        if record.run_id != self._run_id:
            self._run_id, self._written = record.run_id, []
        same = 0
        for (written, _), step in zip(self._written, record.steps, strict=False):
            if written is not step:
                break
            same += 1
        del self._written[same:]
        for step in record.steps[same:]:
            fragment = _dump(redact_step(step, secrets).model_dump(mode="json"), 2 * _INDENT)
            self._written.append((step, fragment))
        return [fragment for _, fragment in self._written]


def _stray(path: Path) -> Problem:
    return Problem(path, "is not a record of this project; move it elsewhere")


def parse_record(data: bytes, name: str) -> Record:
    """Read a record from its JSON.

    Raises:
        RecordError: not a record, truncated, or of a newer schema; the message begins with `name`.
    """
    # The quick way, which most files go; whatever it does not take is read once more, to say well what is wrong.
    with contextlib.suppress(ValidationError):
        record = Record.model_validate_json(data)
        if record.schema_version <= SCHEMA_VERSION and all(map(_finite, record.steps)):
            return record
    try:
        # A missing value is null; NaN would poison every number made from it.
        content: Any = parse_json(data.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        raise RecordError(f"{name} is not UTF-8 (byte {error.start})") from error
    except DocumentError as error:
        cut = data.lstrip().startswith(b"{") and not data.rstrip().endswith(b"}")
        raise RecordError(f"{name} is cut short; its run must be repeated" if cut else str(error)) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RecordError(
            f"{name} was written by a newer version of this project (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade to read it"
        )
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{name} is not a record: {place + ': ' if place else ''}{first['msg']}") from error


def _finite(step: StepResult) -> bool:
    """Whether all numbers in a step's free JSON are finite; those in its own fields have been validated."""
    waiting: list[object] = [found for found in (step.requested, step.effective, step.details) if found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            return False
    return True


def latest(
    records: Iterable[Record],
) -> Mapping[tuple[str, str, str, str], tuple[Record, StepResult]]:
    """The newest finished result of every step, by (machine class, runbook id, step id, preset).

    Skipped and broken steps do not count; those of a killed run do. Of several nodes of a class it is the newest.
    """
    found: dict[tuple[str, str, str, str], tuple[Record, StepResult]] = {}
    for record in sorted(records, key=lambda record: record.moment):
        for step in record.steps:
            if step.status.finished:
                key = (record.machine.machine_class, record.runbook.id, step.id, record.options.preset)
                found[key] = (record, step)
    return found


def _dump(value: object, indent: int) -> str:
    text = json.dumps(value, indent=_INDENT, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # Within JSON strings line ends are escaped, so every one here is layout.
    return text.replace("\n", "\n" + " " * indent)


def _replace(path: Path, text: str, *, sync: bool) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
            if sync:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
