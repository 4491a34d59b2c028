"""Where an entry stands on a class of machines: which of its runs speaks for it, and which beside it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from runner.evidence.endings import scope_of, width
from runner.evidence.outcomes import Judged
from runner.evidence.record import Options, Record

ISSUE_IS_HERE = 1
Run = tuple[Record, Judged]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an entry stands on a class.

    Attributes:
        record, judged: the newest run of the widest scope.
        beside: narrower runs that are newer and found the issue, the newest first. A narrower one that found nothing
            takes nothing from a proof.
    """

    record: Record
    judged: Judged
    beside: tuple[Run, ...]


def standing(runs: Iterable[Run]) -> Standing | None:
    """Where these runs of one entry on one class leave it; None where there is none. In any order."""
    newest: dict[Options, Run] = {}
    for run in sorted(runs, key=_moment):
        newest[scope_of(run[0].options)] = run
    if not newest:
        return None
    speaks = newest[max(newest, key=lambda scope: (width(scope), _moment(newest[scope])))]
    beside = [
        run
        for run in newest.values()
        if _moment(run) > _moment(speaks) and run[1].outcome.exit_status == ISSUE_IS_HERE
    ]
    return Standing(*speaks, tuple(sorted(beside, key=_moment, reverse=True)))


def _moment(run: Run) -> tuple[object, ...]:
    return run[0].moment
