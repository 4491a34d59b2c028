"""The outcome of a record whose entry is out of reach: whether its steps and verdicts can come to it at all."""

from collections.abc import Iterator
from pathlib import Path

from runner.entry.model import FrontMatter, Runbook
from runner.evidence.gate.words import AGAIN
from runner.evidence.left_out import outcome_in_time
from runner.evidence.outcomes import outcome
from runner.evidence.record import Outcome, Record, Verdict

_PROVED = frozenset({Outcome.FIX_PROVED, Outcome.DRILL_PASSED})


def outcome_problems(record: Record) -> Iterator[str]:
    """What no entry could make of these steps and verdicts."""
    ids = [verdict.id for verdict in record.verdicts]
    if len(set(ids)) < len(ids):
        yield f"has a verdict twice; {AGAIN}"
    if bool(record.unproved) != (record.outcome is Outcome.DRILL_PASSED):
        yield f"has to say why its fix is not proved if its outcome is drill_passed, and only then; {AGAIN}"
    if any(verdict.decides and verdict.verdict is Verdict.MISSED for verdict in record.verdicts):
        # Which step a missed bound fails is known by the entry alone.
        return
    found = _without_entry(record)
    possible = _PROVED if found in _PROVED else {found}
    if found is Outcome.HEALTHY and record.machine.gpu_error:
        possible = possible | {Outcome.INCONCLUSIVE}
    if record.outcome is not None and record.outcome not in possible:
        yield f"calls its outcome {record.outcome}, but its steps give {found}; {AGAIN}"


def _without_entry(record: Record) -> Outcome:
    """The outcome by an entry without bounds and without a proof: all but the proof follows from the steps."""
    head = FrontMatter(id=record.runbook.id, number=1, title="any")
    runbook = Runbook(head=head, sections=(), path=Path())
    return outcome_in_time(outcome(runbook, record.steps, record.verdicts), record.steps)
