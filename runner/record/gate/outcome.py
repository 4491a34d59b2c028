"""Checks the outcome of a record whose entry is unavailable: whether its steps and verdicts can give that outcome."""

from collections.abc import Iterator
from pathlib import Path

from runner.entry.model import FrontMatter, Runbook
from runner.record.gate.words import AGAIN
from runner.record.left_out import outcome_in_time
from runner.record.model import Outcome, Record, Verdict
from runner.record.outcomes import outcome

_PROVED = frozenset({Outcome.FIX_PROVED, Outcome.DRILL_PASSED})


def outcome_problems(record: Record) -> Iterator[str]:
    """Outcomes that no entry could give for these steps and verdicts."""
    ids = [verdict.id for verdict in record.verdicts]
    if len(set(ids)) < len(ids):
        yield f"has a duplicate verdict; {AGAIN}"
    if bool(record.unproved) != (record.outcome is Outcome.DRILL_PASSED):
        yield f"must give reasons for an unproved fix if and only if its outcome is drill_passed; {AGAIN}"
    if any(verdict.decides and verdict.verdict is Verdict.MISSED for verdict in record.verdicts):
        # Only the entry knows which step fails by a missed bound.
        return
    found = _without_entry(record)
    possible = _PROVED if found in _PROVED else {found}
    if found is Outcome.HEALTHY and record.machine.gpu_error:
        possible = possible | {Outcome.INCONCLUSIVE}
    if record.outcome is not None and record.outcome not in possible:
        yield f"has the outcome {record.outcome}, but its steps give {found}; {AGAIN}"


def _without_entry(record: Record) -> Outcome:
    """The outcome for an entry without bounds and proof: everything except the proof follows from the steps."""
    head = FrontMatter(id=record.runbook.id, number=1, title="any")
    runbook = Runbook(head=head, sections=(), path=Path())
    return outcome_in_time(outcome(runbook, record.steps, record.verdicts), record.steps)
