"""Checks the times of a run and its steps: in sequence, within the run, and not in the future."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from runner.record.gate.words import CLOCK
from runner.record.model import Record

# Node clocks differ slightly, and the durations of steps are rounded.
CLOCK_SLACK = timedelta(minutes=5)
_SLACK = timedelta(seconds=1)
# No record is older than the first torch that the probes support; an earlier time means that the node's clock is wrong.
_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
# Longer than any run; larger values overflow when added to a time.
_LONGEST_S = 1e9


def time_problems(record: Record, now: datetime) -> Iterator[str]:
    """Problems with the times of the run and of its steps."""
    ended = record.ended_at or record.started_at
    if ended < record.started_at:
        yield f"ended before it started; {CLOCK}"
    if max(record.started_at, ended) > now + CLOCK_SLACK:
        yield f"is in the future; {CLOCK}"
    if record.started_at < _FIRST:
        yield f"starts in {record.started_at.year}, before this project existed; {CLOCK}"
    yield from _step_times(record, max(ended, record.started_at))


def _step_times(record: Record, ended: datetime) -> Iterator[str]:
    lasted = ended - record.started_at + _SLACK
    free, before = record.started_at, ""
    for step in record.steps:
        start, seconds = step.started_at, step.duration_s
        if seconds is not None and seconds < 0:
            yield f"step {step.id} has a duration below 0; {CLOCK}"
            continue
        if seconds is not None and record.ended_at is not None and seconds > lasted.total_seconds():
            yield f"step {step.id} took longer than the whole run; {CLOCK}"
            continue
        if start is None:
            continue
        until = start + timedelta(seconds=min(seconds or 0.0, _LONGEST_S))
        # A run that was cut off has no end.
        if start < record.started_at or (record.ended_at is not None and start > ended):
            yield f"step {step.id} started outside its run; {CLOCK}"
        elif start < free - _SLACK:
            yield f"step {step.id} started before step {before} had ended; {CLOCK}"
        elif until > ended + _SLACK and record.ended_at is not None:
            yield f"step {step.id} ended after its run; {CLOCK}"
        free, before = max(free, until), step.id
