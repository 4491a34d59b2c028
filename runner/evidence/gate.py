"""The publishing gate: which records may stand on a page that others rely on, and why the others may not.

Every refusal is one line: the file, what is wrong, and after a semicolon what to do.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.catalogue import metric_of
from runner.errors import RecordError, StoreError
from runner.evidence.carried import carried
from runner.evidence.ceilings import ceiling
from runner.evidence.leaks import leaks
from runner.evidence.record import Code, Measurement, Record, StepResult
from runner.evidence.source import CommitDigests, Held, held_by
from runner.evidence.store import Problem, Store
from runner.hardware.boards import board_of
from runner.hardware.machine import joint_class, machine_class
from runner.units import format_value

# Clocks of nodes differ a little, and a step's seconds are rounded.
_CLOCK_SLACK = timedelta(minutes=5)
_DURATION_SLACK_S = 1.0
# No record is older than the first torch that the probes run on; a node that says so lost its clock.
_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
_NEVER_NEGATIVE = frozenset({"s", "B/s", "FLOP/s", "token/s", "token/J", "J", "J/token", "W", "Hz"})
# Numbers that mean nothing without the version of torch that ran.
_NEEDS_TORCH = frozenset({"B/s", "FLOP/s", "token/s", "token/J", "W"})
_BETWEEN_SAMPLES = frozenset({"median", "mean", "geometric mean", "min", "max", "p95", "p99"})
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ALIAS = re.compile(r"node-[0-9a-f]{6}")
_RUN_ID = re.compile(r"[0-9a-f]{12}")
# How far the memory of a known board may be from the size that it is sold by: GB or GiB, less what is reserved.
_MEMORY_TOLERANCE = 0.25
_AGAIN = "run the entry again"


def gate(store: Store, now: datetime | None = None) -> tuple[Problem, ...]:
    """Everything that keeps the data folder from being published, in file order; nothing where all is well.

    Args:
        store: the data folder.
        now: the time that nothing may lie after; the present when left out.

    Raises:
        StoreError: the folder cannot be listed.
    """
    now = now or datetime.now(UTC)
    held = held_by(store.root)
    paths = store.files()
    # What is no record at all; records that cannot be read are met below.
    problems = [*store.strays(), *(Problem(path, message) for path, message in carried(store.root))]
    if not paths:
        problems.append(
            Problem(store.root, "has no records; run an entry first, there is nothing to publish")
        )
    seen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        try:
            record, _ = store.examine(path)
        except RecordError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        problems += [Problem(path, message) for message in record_problems(record, now, store.secrets, held)]
        problems += [Problem(path, message) for message in _misplaced(store, path, record)]
        for key, what in _identities(record):
            other = seen.setdefault(key, path)
            if other != path:
                problems.append(Problem(path, f"has {what} {other}; a run is published once: delete one"))
                break
    return tuple(sorted(problems))


def record_problems(
    record: Record, now: datetime, secrets: Sequence[str] = (), held: Held = lambda _: None
) -> Iterator[str]:
    """What keeps one record from being published, a line each.

    Args:
        record: as it was read.
        now: the time that nothing may lie after.
        secrets: words that may stand nowhere in it, beside what the patterns of redaction find.
        held: finds the code of the commit that it names; None where that commit is not at hand.
    """
    if not all(map(_RUN_ID.fullmatch, (record.run_id, *record.joint_runs))):
        yield f"has a run id that this project does not make; {_AGAIN}"
    if record.simulated or record.machine.simulated:
        yield "was simulated: its GPUs are stand-ins; run the entry on real ones"
    if record.outcome is None or record.ended_at is None:
        yield f"has no outcome: its run was cut off; {_AGAIN}"
    yield from _code_problems(record.code, held)
    yield from _time_problems(record, now)
    yield from _machine_problems(record)
    seen: set[str] = set()
    for step in record.steps:
        if step.id in seen:
            yield f"has step {step.id} twice; {_AGAIN}"
        seen.add(step.id)
        for message in _step_problems(step, record):
            yield f"step {step.id}: {message}"
    for where, kinds in leaks(record, secrets):
        yield f"{where} holds what redaction would take out ({kinds}); {_AGAIN} with this version"


def _identities(record: Record) -> Iterator[tuple[tuple[str, ...], str]]:
    """What two records may not share, and how to say so; one run at a time holds a node."""
    yield ("run", record.run_id), "the run id of"
    started = record.started_at.astimezone(UTC).isoformat()
    where = (record.node_alias, record.machine.machine_class, record.runbook.id)
    yield ("start", *where, started), "node, entry and start of"


def _code_problems(code: Code, held: Held) -> Iterator[str]:
    differing = ""
    if code.commit is None:
        yield "names no commit; run it from a git checkout"
    elif not _COMMIT.fullmatch(code.commit):
        yield f"names {code.commit[:50]!r} as its commit, which is none; run it from a git checkout"
    else:
        differing = " and ".join(_differing(code, held(code.commit)))
    if code.dirty:
        yield (
            f"was taken with changes in {differing or 'runner/ or runbooks/'} that are not in its commit; "
            "commit or remove them, ignored files too, and run again"
        )
    elif code.commit is not None and code.dirty is None:
        yield "does not say whether its code was as committed; run it from a git checkout"
    elif differing:
        yield (
            f"calls its code that of commit {(code.commit or '')[:12]}, which has another {differing}; "
            "run it again from a checkout"
        )


def _differing(code: Code, held: CommitDigests | None) -> Iterator[str]:
    """The folders in which the commit has other code than ran; nothing where the commit is not at hand."""
    if held is None:
        return
    if code.digest is not None:
        if code.digest != held.both:
            yield "runner/ or runbooks/"
        return
    if code.package != held.package:
        yield "runner/"
    if code.entries != held.entries:
        yield "runbooks/"


def _time_problems(record: Record, now: datetime) -> Iterator[str]:
    check = "check the node's clock and run again"
    ended = record.ended_at or record.started_at
    if ended < record.started_at:
        yield f"ended before it started; {check}"
    if max(record.started_at, ended) > now + _CLOCK_SLACK:
        yield f"lies in the future; {check}"
    if record.started_at < _FIRST:
        yield f"starts in {record.started_at.year}, before any such run; {check}"
    lasted = (ended - record.started_at).total_seconds() + _DURATION_SLACK_S
    for step in record.steps:
        if step.duration_s is not None and step.duration_s < 0:
            yield f"step {step.id} took less than no time; {check}"
        elif step.duration_s is not None and record.ended_at is not None and step.duration_s > lasted:
            yield f"step {step.id} took longer than the whole run; {check}"
        if step.started_at is not None and not record.started_at <= step.started_at <= max(
            ended, record.started_at
        ):
            yield f"step {step.id} started outside its run; {check}"


def _misplaced(store: Store, path: Path, record: Record) -> Iterator[str]:
    try:
        right = store.path_of(record)
    except StoreError as error:
        yield str(error)
        return
    if right != path:
        yield f"belongs at {right.relative_to(store.root)}; move it there"


def _machine_problems(record: Record) -> Iterator[str]:
    machine = record.machine
    if not all(map(_ALIAS.fullmatch, (record.node_alias, *record.members))):
        yield f"has a node alias that this project does not make; {_AGAIN}"
    facts = {"cpu": machine.cpu, "os": machine.os, "kernel": machine.kernel, "python": machine.python}
    facts |= {"driver": machine.driver} if machine.gpus else {}
    measured = [one for step in record.steps for one in step.measurements]
    if any(one.unit in _NEEDS_TORCH for one in measured):
        facts |= {"torch": machine.torch}
    if any(one.labels.get("backend") == "nccl" for one in measured):
        facts |= {"cuda": machine.cuda, "nccl": machine.nccl}
    missing = [name for name, fact in facts.items() if not fact]
    missing += [name for name in ("cores", "memory_bytes") if getattr(machine, name) <= 0]
    if missing:
        yield f"lacks facts about its machine: {', '.join(missing)}; {_AGAIN}"
    if machine.gpu_error is not None:
        yield f"comes from a node whose GPUs could not be read ({machine.gpu_error}); mend the node first"
    named = machine_class(machine.gpus, machine.gpu_error, machine.processor)
    if record.members:
        named = joint_class(named, len(record.members))
    if named != machine.machine_class:
        yield f"calls its machine {machine.machine_class}, its hardware is {named}; {_AGAIN}"
    for gpu in machine.gpus:
        board = board_of(gpu.name)
        if board is None or gpu.mig:
            continue
        sold = board.memory_label_gb * 1e9
        if abs(gpu.memory_bytes - sold) > _MEMORY_TOLERANCE * sold:
            held = format_value(gpu.memory_bytes, "B")
            yield f"calls GPU {gpu.index} a {board.name}, it has {held}; {_AGAIN}"


def _step_problems(step: StepResult, record: Record) -> Iterator[str]:
    seen: set[tuple[object, ...]] = set()
    for measurement in step.measurements:
        labels = sorted((name, type(value).__name__, value) for name, value in measurement.labels.items())
        key = (measurement.name, *labels)
        if key in seen:
            yield f"measured {measurement.name} twice at the same labels; tell them apart by a label"
        seen.add(key)
        yield from _measurement_problems(measurement, record, step)


def _measurement_problems(measurement: Measurement, record: Record, step: StepResult) -> Iterator[str]:
    name, unit = measurement.name, measurement.unit
    metric = metric_of(name)
    if metric is None:
        yield f"{name} is not a known metric; add it to runner/catalogue/"
    elif metric.unit != unit:
        yield f"{name} is in {unit}, it is stored in {metric.unit}; a number in another unit needs another name"
    values = (measurement.value, *measurement.samples)
    if unit in _NEVER_NEGATIVE and min(values) < 0:
        yield f"{name} is {format_value(min(values), unit)}, below zero; {_AGAIN}"
    highest = ceiling(measurement, record.machine, step)
    if highest is not None and max(values) > highest:
        found, most = (format_value(value, unit) for value in (max(values), highest))
        yield f"{name} is {found}, above the physical ceiling of {most}; mend how it is measured"
    samples = measurement.samples
    if samples and measurement.statistic in _BETWEEN_SAMPLES:
        # A hair wider: the statistic may have been rounded once more than the samples.
        slack = 1e-9 * max(map(abs, samples))
        if not min(samples) - slack <= measurement.value <= max(samples) + slack:
            yield f"{name}: its {measurement.statistic} lies outside its own samples; {_AGAIN}"
