r"""Which entries match a log: every entry's signatures against every line, in one pass over the log. Pure.

The site's page matches in the browser with the same table (`signature_table`). Both match bytes: Python's patterns
are bytes patterns, the browser reads a log one byte a character, so `\w`, `\d`, `\b` and `.` mean the same in both.
How a log is cut into the texts that patterns are matched against is in `runner.entry.log_lines`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runner.entry.anchors import anchors
from runner.entry.log_forms import MATCH, UNREADABLE
from runner.entry.log_lines import OVERLAP, WINDOW, Block, blocks
from runner.entry.model import Runbook, Signature

KEPT_LINES = 5
# A pattern that matches in many lines says no more than one that matches in a few.
COUNTED_MATCHES = 3
# From this weight on a line that is not a consequence names a cause: lesser ones are hints.
CAUSE_WEIGHT = 8
_SPACE = r" \t\n\r\f\v"


@dataclass(frozen=True)
class Hit:
    """A line of the log that matches.

    Attributes:
        number: of the line, from 1; lines end with a line feed.
        text: the part of the line in which the pattern matched: between carriage returns, at most `WINDOW` bytes.
        pattern: the author's.
        means: what the pattern means, in the entry's words.
        start, end: the characters of `text` that matched.
    """

    number: int
    text: str
    pattern: str
    means: str | None
    start: int
    end: int


@dataclass
class Match:
    """One entry that matches a log, with its first matching lines.

    `score` is the sum over the entry's signatures of weight × matching lines, of which at most three count. Every rank
    prints what follows from a fault, and one line names the fault. So an entry that only consequences match scores
    no more than, and comes after, each entry with a line that names a cause.

    Attributes:
        cause: a line of weight `CAUSE_WEIGHT` or more that is not a consequence matched.
        consequence: all signatures that matched are consequences.
    """

    runbook_id: str
    score: int = 0
    cause: bool = False
    consequence: bool = True
    hits: list[Hit] = field(default_factory=list)


def signature_table(runbooks: Sequence[Runbook]) -> dict[str, object]:
    """All that a matcher needs, as data: limits, what cannot be read, and the signatures of every entry that has some.

    `pattern` is the author's; `portable` is what both matchers compile.
    """
    return {
        "window": WINDOW,
        "overlap": OVERLAP,
        "unreadable": [
            {
                "magic": one.magic.hex(),
                "offset": one.offset,
                "what": one.what,
                "instead": one.instead.replace("READER", MATCH),
            }
            for one in UNREADABLE
        ],
        "kept_lines": KEPT_LINES,
        "counted_matches": COUNTED_MATCHES,
        "cause_weight": CAUSE_WEIGHT,
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
                        "consequence": one.consequence,
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


def match_log(chunks: Iterable[bytes], runbooks: Sequence[Runbook]) -> tuple[Match, ...]:
    """Rank entries by their signatures; the best first, entries without a match left out.

    Of equal scores, entries that only consequences match come last; then by id.

    Args:
        chunks: the log, as UTF-8 or any other encoding that keeps ASCII, in parts of any length.
        runbooks: entries whose signatures are looked for.
    """
    searches = [_Search(runbook.id, one) for runbook in runbooks for one in runbook.head.signatures]
    for block in blocks(chunks):
        for search in searches:
            if len(search.found) < KEPT_LINES:
                search.look(block)
    matches: dict[str, Match] = {}
    for search in searches:
        if search.found:
            match = matches.setdefault(search.runbook_id, Match(search.runbook_id))
            match.score += search.weight * min(len(search.found), COUNTED_MATCHES)
            match.cause |= search.names_cause
            match.consequence &= search.consequence
            match.hits += search.found
    limit = min((match.score for match in matches.values() if match.cause), default=None)
    for match in matches.values():
        # Each search keeps its first hits, so the first hits of the entry are among them. Those of one line stay in the
        # order of the signatures.
        match.hits = sorted(match.hits, key=lambda hit: hit.number)[:KEPT_LINES]
        if match.consequence and limit is not None:
            match.score = min(match.score, limit)
    return tuple(
        sorted(matches.values(), key=lambda match: (-match.score, match.consequence, match.runbook_id))
    )


class _Search:
    """One signature and the lines that matched it so far."""

    def __init__(self, runbook_id: str, signature: Signature) -> None:
        self.runbook_id = runbook_id
        self.weight = signature.weight
        self.consequence = signature.consequence
        self.names_cause = signature.weight >= CAUSE_WEIGHT and not signature.consequence
        self.found: list[Hit] = []
        self._signature = signature
        self._compiled = re.compile(portable(signature.pattern).encode())
        self._anchors = [text.encode() for text in anchors(signature.pattern)]

    def look(self, block: Block) -> None:
        """Note the lines of a block that match, until there are enough. A line counts once."""
        counted, number = 0, block.number
        for start, end in block.pieces(self._anchors):
            number += block.data.count(b"\n", counted, start)
            counted = start
            if self.found and self.found[-1].number == number:
                continue
            for window, begin in block.windows(start, end):
                match = self._compiled.search(window, begin)
                if match:
                    self.found.append(self._hit(number, window, begin, match))
                    break
            if len(self.found) == KEPT_LINES:
                return

    def _hit(self, number: int, window: bytes, begin: int, match: re.Match[bytes]) -> Hit:
        def length(start: int, end: int) -> int:
            return len(window[start:end].decode("utf-8", "replace"))

        start = length(begin, match.start())
        return Hit(
            number,
            window[begin:].decode("utf-8", "replace"),
            self._signature.pattern,
            self._signature.means,
            start,
            start + length(*match.span()),
        )
