"""Which entries a log speaks of: every entry's signatures against every line, in one pass over the log. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runner.entry.model import Runbook, Signature

LONGEST_LINE = 4096
KEPT_LINES = 5
# A pattern that matches on and on says no more than one that matches a few times.
COUNTED_MATCHES = 3


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


def match_lines(lines: Iterable[str], runbooks: Sequence[Runbook]) -> tuple[Match, ...]:
    """Rank entries by their signatures; the best first, ties by id, entries without a match left out.

    Args:
        lines: the log, line by line; of a line longer than `LONGEST_LINE` only the beginning is looked at.
        runbooks: entries whose signatures are looked for.
    """
    table = [
        (runbook, signature, re.compile(signature.pattern))
        for runbook in runbooks
        for signature in runbook.head.signatures
    ]
    if not table:
        return ()
    # One pattern of all signatures rules most lines out at once.
    any_of = re.compile("|".join(f"(?:{signature.pattern})" for _, signature, _ in table))
    found: dict[str, Match] = {}
    counts: dict[tuple[str, Signature], int] = {}
    for number, line in enumerate(lines, start=1):
        text = line[:LONGEST_LINE]
        if not any_of.search(text):
            continue
        for runbook, signature, pattern in table:
            if pattern.search(text):
                _count(found, counts, runbook, signature, Hit(number, text.rstrip("\r\n"), signature.pattern))
    return tuple(sorted(found.values(), key=lambda match: (-match.score, match.runbook_id)))


def _count(
    found: dict[str, Match],
    counts: dict[tuple[str, Signature], int],
    runbook: Runbook,
    signature: Signature,
    hit: Hit,
) -> None:
    match = found.setdefault(runbook.id, Match(runbook.id))
    key = (runbook.id, signature)
    counts[key] = counts.get(key, 0) + 1
    if counts[key] <= COUNTED_MATCHES:
        match.score += signature.weight
    if len(match.hits) < KEPT_LINES:
        match.hits.append(hit)
