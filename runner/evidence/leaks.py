"""Where a record still holds what must not be published: the redaction's own rules, over every text of it."""

import re
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from runner.evidence.record import Record
from runner.evidence.redact import PLACEHOLDER, redact_json
from runner.plain import plain

# Made by this project, of a fixed form, and compared by it: what looks like anything else in them is chance.
_OURS = frozenset(
    {"run_id", "node_alias", "schema_version", "started_at", "ended_at"}
    | {"digest", "commit", "package", "entries"}
)


def leaks(record: Record, secrets: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """(place in the record, kinds of what stands there) of all that `redact_json` would still change.

    What was found is not repeated: these lines end up in logs that others read.

    Args:
        record: as it was read.
        secrets: further words that may not stand in it, such as this host's own names.
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
    """Fields of the record, of its code and of its steps; below them everything comes from outside."""
    return re.fullmatch(r"(?:code|steps\[\d+\])?", place) is not None


def _kinds(before: str, after: str) -> str:
    had = PLACEHOLDER.findall(before)
    new = sorted({kind for kind in PLACEHOLDER.findall(after) if had.count(kind) < after.count(kind)})
    if not new and plain(before) == after:
        return "control characters"
    return ", ".join(kind.strip("[]") for kind in new) or "something private"
