"""Finds text in a record that must not be published, with the same rules as redaction."""

import re
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from runner.base.plain import plain
from runner.record.model import Record
from runner.record.redaction.placeholder import PLACEHOLDER
from runner.record.redaction.redact import redact_json

# Fields that this project generates in a fixed form; any match with a redaction rule in them is a coincidence.
_OURS = frozenset(
    {"run_id", "node_alias", "schema_version", "started_at", "ended_at"}
    | {"digest", "commit", "package", "entries"}
)


def leaks(record: Record, secrets: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """(place in the record, kinds of private data) of all text that `redact_json` would still change.

    The text itself is not repeated: these lines appear in logs that others read.

    Args:
        record: the record as read.
        secrets: further words that must not occur in it, such as the names of this host.
    """
    whole = record.model_dump(mode="json")
    return tuple(_differences(whole, redact_json(whole, secrets), ""))


def _differences(before: JsonValue, after: JsonValue, place: str) -> Iterator[tuple[str, str]]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key, value in before.items():
            if not (key in _OURS and _is_top_level(place)):
                yield from _differences(value, after[key], f"{place}.{key}" if place else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{place}[{number}]")
    else:
        yield place or "the record", _kinds(str(before), str(after))


def _is_top_level(place: str) -> bool:
    """Whether a place is a field of the record, its code or its steps; values below these come from outside."""
    return re.fullmatch(r"(?:code|steps\[\d+\])?", place) is not None


def _kinds(before: str, after: str) -> str:
    had = PLACEHOLDER.findall(before)
    new = sorted({kind for kind in PLACEHOLDER.findall(after) if had.count(kind) < after.count(kind)})
    if not new and plain(before) == after:
        return "control characters"
    return ", ".join(kind.strip("[]") for kind in new) or "something private"
