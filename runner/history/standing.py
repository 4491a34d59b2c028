"""The current result of an entry on a machine class: the run that counts, and newer runs to show with it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from runner.history.endings import scope_of, width
from runner.record.model import Options, Record
from runner.record.outcomes import Judged

ISSUE_IS_HERE = 1
Run = tuple[Record, Judged]


@dataclass(frozen=True, slots=True)
class Standing:
    """The current result of an entry on a class.

    Attributes:
        record, judged: the newest run of the widest scope.
        beside: newer runs of a narrower scope that found the issue, the newest first. A narrower run without a finding
            does not weaken a proof.
    """

    record: Record
    judged: Judged
    beside: tuple[Run, ...]


def standing(runs: Iterable[Run]) -> Standing | None:
    """The current result from the runs of one entry on one class, in any order; None without runs."""
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
