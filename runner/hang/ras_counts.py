"""What both forms of the answer of NCCL's RAS share: its errors, and which ranks have launched fewer collectives."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.base.bounds import FACT_CHARACTERS
from runner.base.errors import RunbookError
from runner.base.plain import one_line
from runner.base.words import counted

_MOST_FINDINGS = 100


class RasError(RunbookError):
    """NCCL's RAS gave no answer that can be used; what it would have said is unknown."""


@dataclass(frozen=True)
class LaunchCounts:
    """How many collectives of one kind the ranks of one communicator have launched.

    Attributes:
        by_rank: the number of each rank that is known.
        most: the highest number of any rank.
        complete: whether `by_rank` holds every rank that answered.
    """

    by_rank: Mapping[int, int]
    most: int
    complete: bool = True


def ranks_behind(launches: Sequence[LaunchCounts]) -> tuple[int, ...]:
    """The ranks that have launched fewer collectives in total than another rank.

    A rank that called another operation than the others is behind in one kind and ahead in another one: its total is
    the same, and it is not behind.

    Args:
        launches: every kind in which the ranks differ, of communicators that number the ranks alike.
    """
    complete = all(one.complete for one in launches)
    if not complete and len(launches) > 1:
        # A rank whose numbers are known in one kind only may be ahead in the other.
        return ()
    missing: Counter[int] = Counter()
    for one in launches:
        missing.update({rank: one.most - count for rank, count in one.by_rank.items()})
    least = min(missing.values(), default=0) if complete else 0
    return tuple(sorted(rank for rank, count in missing.items() if count > least))


def as_findings(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines, each plain and short enough, and instead of the last ones their number if there are many."""
    kept = [_cut(one_line(line)) for line in lines[:_MOST_FINDINGS]]
    if len(lines) > len(kept):
        kept.append(f"{counted(len(lines) - len(kept), 'further finding')}: run `ncclras -v` to read all")
    return tuple(kept)


def _cut(line: str) -> str:
    return line if len(line) <= FACT_CHARACTERS else f"{line[: FACT_CHARACTERS - 1]}…"
