"""The gate for one record."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from runner.record.commits import NO_HISTORY, History
from runner.record.gate.code import code_problems
from runner.record.gate.entry import entry_problems
from runner.record.gate.identity import readings
from runner.record.gate.machine import machine_problems
from runner.record.gate.options import options_problems
from runner.record.gate.outcome import outcome_problems
from runner.record.gate.steps import step_problems
from runner.record.gate.times import time_problems
from runner.record.gate.words import AGAIN
from runner.record.model import Record
from runner.record.redaction.leaks import leaks

_RUN_ID = re.compile(r"[0-9a-f]{12}")


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
    if record.simulated or record.machine.simulated:
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
        yield from outcome_problems(record)
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
