r"""Which entries a log speaks of: every entry's signatures against every line, in one pass over the log. Pure.

The site's page matches in the browser with the same table (`signature_table`). Both look at bytes: Python's patterns
are bytes patterns, the browser reads a log one byte a character, so `\w`, `\d`, `\b` and `.` mean the same in both.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from runner.entry.model import Runbook

LONGEST_LINE = 4096
KEPT_LINES = 5
# A pattern that matches on and on says no more than one that matches a few times.
COUNTED_MATCHES = 3
# A text that must stand in every match; shorter ones stand in too many lines to be worth looking for.
_SHORTEST_ANCHOR = 4
_SPACE = r" \t\n\r\f\v"


@dataclass(frozen=True)
class Hit:
    """A line of the log that matches: its number from 1, its text (cut at `LONGEST_LINE`), and the pattern."""

    number: int
    text: str
    pattern: str


@dataclass
class Match:
    """One entry and how strongly the log speaks for it.

    `score` is the sum over the entry's signatures of weight × matches, of which at most three count.
    """

    runbook_id: str
    score: int = 0
    hits: list[Hit] = field(default_factory=list)


def signature_table(runbooks: Sequence[Runbook]) -> dict[str, object]:
    """All that a matcher needs, as data: limits, and the signatures of every entry that has some.

    `pattern` is the author's; `portable` is what both matchers compile.
    """
    return {
        "longest_line": LONGEST_LINE,
        "kept_lines": KEPT_LINES,
        "counted_matches": COUNTED_MATCHES,
        "entries": [
            {
                "id": runbook.id,
                "number": runbook.head.number,
                "title": runbook.head.title,
                "signatures": [
                    {
                        "pattern": one.pattern,
                        "portable": portable(one.pattern),
                        "weight": one.weight,
                        "means": one.means,
                    }
                    for one in runbook.head.signatures
                ],
            }
            for runbook in runbooks
            if runbook.head.signatures
        ],
    }


def portable(pattern: str) -> str:
    r"""The pattern with white space spelt out: a browser's `\s` knows more kinds of it than Python's."""

    def spelt(match: re.Match[str]) -> str:
        part = match[0]
        if part.startswith("["):
            return part.replace(r"\\", "\0").replace(r"\s", _SPACE).replace("\0", r"\\")
        return {r"\s": f"[{_SPACE}]", r"\S": f"[^{_SPACE}]"}.get(part, part)

    return re.sub(r"\\.|\[\^?(?:\\.|[^\]\\])*\]", spelt, pattern, flags=re.DOTALL)


def match_lines(lines: Iterable[str], runbooks: Sequence[Runbook]) -> tuple[Match, ...]:
    """The same for a log that is at hand as lines of text."""
    return match_log((line.rstrip("\n").encode() + b"\n" for line in lines), runbooks)


def match_log(blocks: Iterable[bytes], runbooks: Sequence[Runbook]) -> tuple[Match, ...]:
    """Rank entries by their signatures; the best first, ties by id, entries without a match left out.

    Args:
        blocks: the log in pieces of whole lines; of a line longer than `LONGEST_LINE` bytes only the beginning counts.
        runbooks: entries whose signatures are looked for.
    """
    searches = [
        _Search(runbook.id, order, one.weight, one.pattern)
        for runbook in runbooks
        for order, one in enumerate(runbook.head.signatures)
    ]
    first_line = 1
    for block in blocks:
        for search in searches:
            if len(search.found) < KEPT_LINES:
                search.look(block, first_line)
        first_line += block.count(b"\n")
    matches: dict[str, Match] = {}
    for search in searches:
        if search.found:
            match = matches.setdefault(search.runbook_id, Match(search.runbook_id))
            match.score += search.weight * min(len(search.found), COUNTED_MATCHES)
    for match in matches.values():
        # Of every signature the first hits are known, so the entry's first ones are among them.
        hits = sorted(
            (number, search.order, Hit(number, text, search.pattern))
            for search in searches
            if search.runbook_id == match.runbook_id
            for number, text in search.found
        )
        match.hits = [hit for _, _, hit in hits[:KEPT_LINES]]
    return tuple(sorted(matches.values(), key=lambda match: (-match.score, match.runbook_id)))


class _Search:
    """One signature on its way through a log."""

    def __init__(self, runbook_id: str, order: int, weight: int, pattern: str) -> None:
        self.runbook_id = runbook_id
        self.order = order
        self.weight = weight
        self.pattern = pattern
        self.found: list[tuple[int, str]] = []
        self._compiled = re.compile(portable(pattern).encode())
        self._anchors = [text.encode() for text in anchors(pattern)]

    def look(self, block: bytes, first_line: int) -> None:
        """Note the lines of a block that match, until enough are known."""
        counted = 0
        number = first_line
        for start, end in self._candidates(block):
            line = block[start : min(end, start + LONGEST_LINE)].rstrip(b"\r")
            if self._compiled.search(line):
                number += block.count(b"\n", counted, start)
                counted = start
                self.found.append((number, line.decode("utf-8", "replace")))
                if len(self.found) == KEPT_LINES:
                    return

    def _candidates(self, block: bytes) -> Iterator[tuple[int, int]]:
        """Begin and end of the lines in which the pattern may match: those with one of its anchors, or all."""
        place = 0
        following = dict.fromkeys(self._anchors, -1)
        while place < len(block):
            for text, at in following.items():
                if 0 <= at < place or (at < 0 and place == 0):
                    following[text] = block.find(text, place)
            if following:
                found = min((at for at in following.values() if at >= 0), default=None)
                if found is None:
                    return
                place = block.rfind(b"\n", place, found) + 1 or place
            end = block.find(b"\n", place)
            end = len(block) if end < 0 else end
            yield place, end
            place = end + 1


def anchors(pattern: str) -> tuple[str, ...]:
    """Plain texts of which every match of a pattern holds one; none where an alternative has none worth looking for."""
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
    return longest if min(map(len, longest)) >= _SHORTEST_ANCHOR else ()


def _may_be_none(repeat: str) -> bool:
    return repeat[0] in "*?" or repeat.startswith(("{0,", "{0}", "{,"))


def _token(pattern: str, place: int) -> str:
    match = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]|.", re.DOTALL).match(
        pattern, place
    )
    assert match
    return match[0]


def _literal(part: str) -> str | None:
    """The character that a part stands for, None where it stands for more or for none."""
    if len(part) == 1:
        return None if part in "^$.|()[]{}*+?" else part
    if len(part) == 2 and part[0] == "\\" and not part[1].isalnum():  # noqa: PLR2004 - an escaped character
        return part[1]
    return None
