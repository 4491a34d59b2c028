"""Parses the bytes of a file into a record. Anything that is not a record is refused with a one-line message."""

import json
from typing import Any

from pydantic import ValidationError

from runner.base.errors import DocumentError, RecordError
from runner.record.migrations import migrate
from runner.record.model import SCHEMA_VERSION, Record

_LONGEST_PLACE = 120


def parse_record(data: bytes, name: str, *, as_written: bool = False) -> Record:
    """Read a record from its JSON.

    Args:
        data: the content of the file.
        name: what a message calls the file.
        as_written: leave a record of an earlier schema as it is; default: migrate it to the current schema.

    Raises:
        RecordError: not a record, truncated, or of a newer schema; the message begins with `name`.
    """
    try:
        record = Record.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _refusal(data, name, error) from error
    if record.schema_version > SCHEMA_VERSION:
        raise _newer(name, record.schema_version)
    if as_written or record.schema_version == SCHEMA_VERSION:
        return record
    return migrate(record)


def _refusal(data: bytes, name: str, error: ValidationError) -> RecordError:
    """Why this is not a record; it is parsed again for a precise message."""
    # Imported late: most records have no fault.
    from runner.record.documents import parse_json, telling_error  # noqa: PLC0415

    try:
        # A missing value is null; NaN would make every derived number NaN.
        content: Any = parse_json(data.decode("utf-8"), name)
    except UnicodeDecodeError as fault:
        return RecordError(f"{name} is not UTF-8 (byte {fault.start})")
    except DocumentError as fault:
        cut = data.lstrip().startswith(b"{") and not data.rstrip().endswith(b"}")
        return RecordError(f"{name} is truncated; run the entry again" if cut else str(fault))
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return _newer(name, version)
    first = telling_error(error)
    # The place contains keys of a possibly hostile file.
    place = ".".join(str(part) for part in first["loc"])[:_LONGEST_PLACE]
    told = f"{place + ': ' if place else ''}{first['msg']}"
    return RecordError(f"{name} is not a record: {told}")


def _newer(name: str, version: int) -> RecordError:
    return RecordError(
        f"{name} was written by a newer version of this project (schema {version}, this one reads up to "
        f"{SCHEMA_VERSION}); upgrade to read it"
    )


def refuse_twice(data: bytes, name: str) -> None:
    """Refuse JSON in which an object has a duplicate key: some parsers use the first, some the last.

    Raises:
        RecordError: there is a duplicate key; the message begins with `name`.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise RecordError(f"{name} has the duplicate key {twice[:_LONGEST_PLACE]!r}; run the entry again")
        return found

    json.loads(data, object_pairs_hook=once)
