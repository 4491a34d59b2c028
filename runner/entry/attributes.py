"""The attributes of a step: the braces after ```` ```bash ````."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.base.words import nearest
from runner.entry.model import Safety

_BRACES = re.compile(r"(?P<language>[^\s{]*)\s*\{(?P<inside>[^{}]*)\}\s*")
_ID = re.compile(r"[a-z0-9][a-z0-9-]*")
# On the command line, this names every entry.
ALL = "all"
KNOWN_ATTRIBUTES = ("drill", "gpus", "needs", "nodes", "safety", "slow", "timeout")
LONGEST_S = 24 * 3600.0


@dataclass(frozen=True)
class Attributes:
    """A parsed info string of a fence. `faults` are messages without a place; `fields` are fields of `Step`."""

    language: str
    step_id: str | None
    fields: Mapping[str, object]
    faults: tuple[str, ...]


def is_id(text: str) -> bool:
    """Whether a text is a valid id: lower-case letters, digits and hyphens, not beginning with a hyphen."""
    return _ID.fullmatch(text) is not None


def entry_id_fault(text: str) -> str | None:
    """Why a text cannot be the id of an entry; None if it can."""
    if not is_id(text):
        return f"{text!r} is not a valid id; use lower-case letters, digits and hyphens"
    return (
        f"the id {text!r} stands for every entry in runbook run and plan; choose another"
        if text == ALL
        else None
    )


def read_attributes(info: str) -> Attributes:
    """Parse `bash {#busbw gpus=2 timeout=300 safety=loads-device needs=a,b slow}`."""
    info = info.strip()
    match = _BRACES.fullmatch(info)
    if match is None:
        language = re.split(r"[\s{]", info, maxsplit=1)[0]
        broken = ("the attributes do not parse; write {#id name=value …} after the language",)
        return Attributes(language, None, MappingProxyType({}), broken if "{" in info or "}" in info else ())
    fields: dict[str, object] = {}
    faults: list[str] = []
    step_id: str | None = None
    for word in match["inside"].split():
        if word.startswith("#"):
            if step_id is not None:
                faults.append(f"two ids, #{step_id} and {word}")
            elif not is_id(word[1:]):
                faults.append(f"{word!r} is not a valid id; use lower-case letters, digits and hyphens")
            step_id = word[1:]
            continue
        name, equals, value = word.partition("=")
        if name not in KNOWN_ATTRIBUTES:
            faults.append(f"unknown attribute {name!r}{nearest(name, KNOWN_ATTRIBUTES)}")
        elif name in fields:
            faults.append(f"duplicate attribute {name!r}")
        else:
            try:
                fields[name] = _value(name, value, given=bool(equals))
            except ValueError as error:
                faults.append(str(error))
    if step_id is None:
        faults.append(
            "a fence with attributes needs an id: {#id …}; a fence without attributes is an illustration"
        )
    elif match["language"] != "bash":
        faults.append(f"a step must be a bash fence, not {match['language'] or 'a fence without a language'}")
    return Attributes(match["language"], step_id, MappingProxyType(fields), tuple(faults))


def _value(name: str, value: str, *, given: bool) -> object:
    value = value.strip("\"'")
    if name in {"drill", "slow"}:
        if given:
            raise ValueError(f"{name} takes no value")
        return True
    if name == "safety":
        known = [safety.value for safety in Safety]
        if value not in known:
            raise ValueError(f"unknown safety {value!r}{nearest(value, known)}")
        return Safety(value)
    if name == "needs":
        ids = tuple(part for part in value.split(",") if part)
        if not ids or not all(is_id(part) for part in ids):
            raise ValueError(f"needs takes step ids separated by commas, not {value!r}")
        return ids
    if name == "timeout":
        if not re.fullmatch(r"\d{1,6}(\.\d+)?", value) or not 0 < float(value) <= LONGEST_S:
            raise ValueError(f"timeout must be above 0 and at most {LONGEST_S:g} seconds, not {value!r}")
        return float(value)
    if not re.fullmatch(r"\d{1,5}", value) or (name == "nodes" and int(value) < 1):
        raise ValueError(f"{name} takes a whole number, not {value!r}")
    return int(value)
