"""Plain texts of which every match of a regular expression holds one: what a fast search looks for first. Pure."""

import re

# A text that must be in every match; shorter ones are in too many lines to be worth looking for.
_SHORTEST = 4


def anchors(pattern: str) -> tuple[str, ...]:
    """Plain texts of which every match of a pattern holds one; none where an alternative has no text long enough."""
    runs: list[list[str]] = [[""]]
    place = depth = 0
    while place < len(pattern):
        part = _token(pattern, place)
        place += len(part)
        repeat = re.compile(r"(?:[*+?]|\{\d*,?\d*\})\??").match(pattern, place)
        literal = _literal(part) if depth == 0 else None
        if part == "|" and depth == 0:
            runs.append([""])
        elif literal is not None and not (repeat and _may_be_none(repeat[0])):
            runs[-1][-1] += literal
        else:
            runs[-1].append("")
        depth += part.startswith("(") - (part == ")")
        if repeat:
            # Anything may follow the first occurrence of what is repeated.
            runs[-1].append("")
            place = repeat.end()
    longest = tuple(max(alternative, key=len) for alternative in runs)
    return longest if min(map(len, longest)) >= _SHORTEST else ()


def _may_be_none(repeat: str) -> bool:
    return repeat[0] in "*?" or repeat.startswith(("{0,", "{0}", "{,"))


def _token(pattern: str, place: int) -> str:
    match = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]|.", re.DOTALL).match(
        pattern, place
    )
    assert match
    return match[0]


def _literal(part: str) -> str | None:
    """The character that a part matches; None where it matches several or none."""
    if len(part) == 1:
        return None if part in "^$.|()[]{}*+?" else part
    if len(part) == 2 and part[0] == "\\" and not part[1].isalnum():  # noqa: PLR2004 - an escaped character
        return part[1]
    return None
