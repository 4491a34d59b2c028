"""Checks the run of a record: its code is a commit of this repository, its options exist, its times are possible."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from runner.entry.model import Phase
from runner.entry.plan import ALLOWANCES
from runner.record.commits import History
from runner.record.gate.words import AGAIN, quoted
from runner.record.model import Code, Options, Record
from runner.record.source import CommitDigests
from runner.sizing.presets import PRESETS

_CLOCK = "check the node's clock and run again"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Git's name for "no commit".
_NONE = "0" * 40
# Node clocks differ slightly, and the durations of steps are rounded.
_CLOCK_SLACK = timedelta(minutes=5)
_SLACK = timedelta(seconds=1)
# No record is older than the first torch that the probes support; an earlier time means that the node's clock is wrong.
_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
# Longer than any run; larger values overflow when added to a time.
_LONGEST_S = 1e9


def code_problems(record: Record, history: History) -> Iterator[str]:
    """Problems with the code that the record names."""
    code = record.code
    differing = ""
    if code.commit is None:
        yield "names no commit; run it from a git checkout"
    elif not _COMMIT.fullmatch(code.commit) or code.commit == _NONE:
        yield f"names {quoted(code.commit)} as its commit, which is not a commit id; run it from a git checkout"
    elif history.lacks(code.commit):
        yield (
            f"names commit {code.commit[:12]}, which is not in the history of this repository; "
            "run it from a commit that is"
        )
    else:
        commit = history.commit(code.commit)
        if commit is not None:
            differing = " and ".join(_differing(code, commit.digests))
            if record.started_at < commit.made - _CLOCK_SLACK:
                yield f"starts before its commit {code.commit[:12]} was made; {_CLOCK}"
    if code.dirty:
        yield (
            f"was taken with changes in {differing or 'runner/ or runbooks/'} that are not in its commit; "
            "commit or remove them, ignored files too, and run again"
        )
    elif code.commit is not None and code.dirty is None:
        yield "does not say whether its code was as committed; run it from a git checkout"
    elif differing:
        yield (
            f"says that its code is commit {(code.commit or '')[:12]}, but that commit has a different {differing}; "
            "run it again from a checkout"
        )


def _differing(code: Code, held: CommitDigests) -> Iterator[str]:
    """The folders in which the commit differs from the code that ran."""
    if code.digest is not None:
        if code.digest != held.both:
            yield "runner/ or runbooks/"
        return
    if code.package != held.package:
        yield "runner/"
    if code.entries != held.entries:
        yield "runbooks/"


def options_problems(options: Options) -> Iterator[str]:
    """Options that no caller can request."""
    if options.preset not in PRESETS:
        yield f"has the unknown preset {quoted(options.preset)}; {AGAIN}"
    if not options.phases or options.phases != tuple(phase for phase in Phase if phase in options.phases):
        yield f"does not have the requested phases in run order; {AGAIN}"
    if len(set(options.steps)) < len(options.steps):
        yield f"requests the same step twice; {AGAIN}"
    unknown = sorted(set(options.allow) - set(ALLOWANCES))
    if unknown:
        yield f"has the unknown allowance {quoted(unknown[0])}; {AGAIN}"
    if options.within is not None and options.within <= 0:
        yield f"has a time limit that is not above 0; {AGAIN}"


def time_problems(record: Record, now: datetime) -> Iterator[str]:
    """Problems with the times of the run and of its steps."""
    ended = record.ended_at or record.started_at
    if ended < record.started_at:
        yield f"ended before it started; {_CLOCK}"
    if max(record.started_at, ended) > now + _CLOCK_SLACK:
        yield f"is in the future; {_CLOCK}"
    if record.started_at < _FIRST:
        yield f"starts in {record.started_at.year}, before this project existed; {_CLOCK}"
    yield from _step_times(record, max(ended, record.started_at))


def _step_times(record: Record, ended: datetime) -> Iterator[str]:
    lasted = ended - record.started_at + _SLACK
    free, before = record.started_at, ""
    for step in record.steps:
        start, seconds = step.started_at, step.duration_s
        if seconds is not None and seconds < 0:
            yield f"step {step.id} has a duration below 0; {_CLOCK}"
            continue
        if seconds is not None and record.ended_at is not None and seconds > lasted.total_seconds():
            yield f"step {step.id} took longer than the whole run; {_CLOCK}"
            continue
        if start is None:
            continue
        until = start + timedelta(seconds=min(seconds or 0.0, _LONGEST_S))
        # A run that was cut off has no end.
        if start < record.started_at or (record.ended_at is not None and start > ended):
            yield f"step {step.id} started outside its run; {_CLOCK}"
        elif start < free - _SLACK:
            yield f"step {step.id} started before step {before} had ended; {_CLOCK}"
        elif until > ended + _SLACK and record.ended_at is not None:
            yield f"step {step.id} ended after its run; {_CLOCK}"
        free, before = max(free, until), step.id
