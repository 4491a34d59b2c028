"""The gate for one record, and what no two records may share."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from runner.entry.model import FrontMatter, Runbook
from runner.record.commits import NO_HISTORY, History
from runner.record.gate.entry import entry_problems
from runner.record.gate.machine import machine_problems
from runner.record.gate.run import code_problems, options_problems, time_problems
from runner.record.gate.steps import step_problems
from runner.record.gate.words import AGAIN
from runner.record.model import Measurement, Outcome, Record, StepResult, Verdict
from runner.record.outcomes import outcome, outcome_in_time
from runner.record.redaction.leaks import leaks
from runner.record.simulated import was_simulated

_RUN_ID = re.compile(r"[0-9a-f]{12}")
_PROVED = frozenset({Outcome.FIX_PROVED, Outcome.DRILL_PASSED})
# Readings of a clock or a counter: two runs never agree in several of them to all digits. Byte sizes, counts and
# values computed from a seed can repeat.
_READ = frozenset({"s", "B/s", "FLOP/s", "token/s", "token/J", "J", "J/token", "W"})
_FEWEST = 5


def record_problems(
    record: Record, now: datetime, secrets: Sequence[str] = (), history: History = NO_HISTORY
) -> Iterator[str]:
    """The problems that prevent publishing of one record, one line each.

    Args:
        record: the record as read.
        now: no time in the record may be later than this.
        secrets: words that must not occur in it, in addition to the redaction patterns.
        history: of the repository to publish to. Checks that depend on the entry's text use the entry at the record's
            commit, and are skipped if that commit is unavailable.
    """
    for message in _problems(record, now, secrets, history):
        # A record may contain any text, including terminal control sequences.
        yield "".join(one if one.isprintable() else " " for one in message)


def _problems(record: Record, now: datetime, secrets: Sequence[str], history: History) -> Iterator[str]:
    if not all(map(_RUN_ID.fullmatch, (record.run_id, *record.joint_runs))):
        yield f"has a run id of an invalid form; {AGAIN}"
    if was_simulated(record):
        yield "was simulated; run the entry on real GPUs"
    if record.outcome is None or record.ended_at is None:
        yield f"has no outcome: its run was cut off; {AGAIN}"
    yield from code_problems(record, history)
    yield from time_problems(record, now)
    yield from machine_problems(record)
    yield from options_problems(record.options)
    yield from _steps_problems(record)
    # If the code differed from the commit, the commit's entry does not apply.
    known = record.code.commit if not record.code.dirty else None
    commit = None if known is None else history.commit(known)
    judged = None if commit is None else commit.entry(record.runbook.id)
    if commit is not None:
        yield from entry_problems(record, commit)
    if judged is None:
        yield from _outcome_problems(record)
    for where, kinds in leaks(record, secrets):
        yield f"{where} contains text that redaction would remove ({kinds}); {AGAIN} with this version"


def _steps_problems(record: Record) -> Iterator[str]:
    seen: set[str] = set()
    for step in record.steps:
        if step.id in seen:
            yield f"has a duplicate step {step.id}; {AGAIN}"
        seen.add(step.id)
        for message in step_problems(step, record):
            yield f"step {step.id}: {message}"
    taken: dict[tuple[object, ...], str] = {}
    for key, step in readings(record):
        other = taken.setdefault(key, step.id)
        if other != step.id:
            yield f"step {step.id}: has exactly the readings of step {other}; {AGAIN}"


def _outcome_problems(record: Record) -> Iterator[str]:
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
    if found is Outcome.HEALTHY:
        # Only the entry knows which steps are drills, and which need the GPUs that could not be read.
        possible = possible | {Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE}
    if found is Outcome.INCONCLUSIVE:
        possible = possible | {Outcome.NOT_APPLICABLE}
    if record.outcome is not None and record.outcome not in possible:
        yield f"has the outcome {record.outcome}, but its steps give {found}; {AGAIN}"


def _without_entry(record: Record) -> Outcome:
    """The outcome for an entry without bounds and proof: everything except the proof follows from the steps."""
    head = FrontMatter(id=record.runbook.id, number=1, title="any")
    runbook = Runbook(head=head, sections=(), path=Path())
    return outcome_in_time(outcome(runbook, record.steps, record.verdicts), record.steps)


def identities(record: Record) -> Iterator[tuple[tuple[object, ...], str]]:
    """Keys that no other record may have, each with its description; a node executes one run at a time."""
    yield ("run", record.run_id), "the run id of"
    started = record.started_at.astimezone(UTC).isoformat()
    where = (record.node_alias, record.machine.machine_class, record.runbook.id)
    yield ("start", *where, started), "node, entry and start of"
    for key, step in readings(record):
        yield key, f"in step {step.id} exactly the readings of"


def readings(record: Record) -> Iterator[tuple[tuple[object, ...], StepResult]]:
    """The readings of each step as a whole and of each measurement, unordered: no other record can have the same.

    A stand-in gives equal readings again and again, and they count for nothing.
    """
    for step in record.steps:
        if step.simulated:
            continue
        timed = [one for one in step.measurements if one.unit in _READ]
        vectors = {tuple(sorted(_values(one))) for one in timed}
        vectors.add(tuple(sorted(value for one in timed for value in _values(one))))
        for vector in sorted(vectors):
            if len(set(vector)) >= _FEWEST:
                yield ("readings", *vector), step


def _values(measurement: Measurement) -> tuple[float, ...]:
    return measurement.samples or (measurement.value,)
