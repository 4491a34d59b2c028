"""The publishing gate: which records may stand on a page that others rely on, and why the others may not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.catalogue import METRICS
from runner.errors import RecordError, StoreError
from runner.evidence.record import Measurement, Record, StepResult
from runner.evidence.redact import redact_record
from runner.evidence.store import Problem, Store
from runner.hardware.boards import Board, board_of
from runner.hardware.machine import joint_class, machine_class
from runner.units import format_value

# Clocks of nodes differ a little.
_CLOCK_SLACK = timedelta(minutes=5)
# A collective that reduces inside the switch moves each byte once where the formula counts up to two.
_IN_NETWORK_REDUCTION = 2.0
_OVER_LINKS = ("bus_bandwidth", "algorithm_bandwidth", "pair", "link", "peer", "p2p")
_HALF_PRECISION = frozenset({"bf16", "bfloat16", "fp16", "float16", "half"})


def gate(store: Store, now: datetime | None = None) -> tuple[Problem, ...]:
    """Everything that keeps the data folder from being published, in file order; nothing where all is well.

    Args:
        store: the data folder.
        now: the time that nothing may lie after; the present when left out.

    Raises:
        StoreError: the folder cannot be listed.
    """
    now = now or datetime.now(UTC)
    paths = store.files()
    if not paths:
        return (Problem(store.root, "has no records; run an entry first, there is nothing to publish"),)
    places = set(paths)
    # What is no record at all; records that cannot be read are met below.
    problems = [problem for problem in store.problems() if problem.path not in places]
    first_of: dict[str, Path] = {}
    for path in paths:
        try:
            record = store.load(path)
        except RecordError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        problems += [Problem(path, message) for message in record_problems(record, now)]
        problems += [Problem(path, message) for message in _misplaced(store, path, record)]
        other = first_of.setdefault(record.run_id, path)
        if other != path:
            problems.append(Problem(path, f"has the run id of {other}; a run is published once"))
    return tuple(sorted(problems))


def record_problems(record: Record, now: datetime) -> Iterator[str]:
    """What keeps one record from being published, a line each.

    Args:
        record: as it was read.
        now: the time that nothing may lie after.
    """
    if record.simulated or record.machine.simulated:
        yield "was simulated: its GPUs are stand-ins"
    if record.outcome is None or record.ended_at is None:
        yield "has no outcome: its run was cut off; run the entry again"
    if record.code.commit is None:
        yield "names no commit: run it from a git checkout"
    if record.code.dirty:
        yield "was taken with uncommitted changes in runner/ or runbooks/; commit them and run again"
    yield from _time_problems(record, now)
    yield from _machine_problems(record)
    for step in record.steps:
        for measurement in step.measurements:
            for message in _measurement_problems(measurement, record, step):
                yield f"step {step.id}: {message}"
    if redact_record(record) != record:
        yield "holds an address, name or token that redaction would take out; run the entry again"


def _time_problems(record: Record, now: datetime) -> Iterator[str]:
    ended = record.ended_at or record.started_at
    if ended < record.started_at:
        yield "ended before it started"
    if max(record.started_at, ended) > now + _CLOCK_SLACK:
        yield "lies in the future; check the node's clock"


def _misplaced(store: Store, path: Path, record: Record) -> Iterator[str]:
    try:
        right = store.path_of(record)
    except StoreError as error:
        yield str(error)
        return
    if right != path:
        yield f"belongs at {right.relative_to(store.root)}"


def _machine_problems(record: Record) -> Iterator[str]:
    machine = record.machine
    facts = {"cpu": machine.cpu, "os": machine.os, "kernel": machine.kernel, "python": machine.python}
    facts |= {"driver": machine.driver} if machine.gpus else {}
    missing = [name for name, fact in facts.items() if not fact]
    missing += [name for name in ("cores", "memory_bytes") if getattr(machine, name) <= 0]
    if missing:
        yield f"lacks facts about its machine: {', '.join(missing)}"
    if machine.gpu_error is not None:
        yield f"comes from a node whose GPUs could not be read ({machine.gpu_error})"
    named = machine_class(machine.gpus, machine.gpu_error, machine.arch, machine.cores)
    if record.members:
        named = joint_class(named, len(record.members))
    if named != machine.machine_class:
        yield f"calls its machine {machine.machine_class}, its hardware is {named}"


def _measurement_problems(measurement: Measurement, record: Record, step: StepResult) -> Iterator[str]:
    metric = METRICS.get(measurement.name)
    if metric is None:
        yield f"{measurement.name} is not a known metric"
    elif metric.unit != measurement.unit:
        yield f"{measurement.name} is in {measurement.unit}, it is stored in {metric.unit}"
    highest = ceiling(measurement, record, step)
    values = (measurement.value, *measurement.samples)
    if highest is not None and max(values) > highest:
        found, most = (format_value(value, measurement.unit) for value in (max(values), highest))
        yield f"{measurement.name} is {found}, above the physical ceiling of {most}"


def ceiling(measurement: Measurement, record: Record, step: StepResult) -> float | None:
    """The most that the step's GPUs could physically do, in the measurement's unit; None where no ceiling is known.

    Matrix rates: the boards' dense peak at the precision that the labels name (at FP8 where they name none).
    Bandwidth over links: twice a GPU's NVLink bandwidth each way, for in-network reduction. Other bandwidth: that
    of the memory.
    """
    boards = [board_of(gpu.name) for gpu in record.machine.gpus]
    known = [board for board in boards if board is not None]
    if not known or len(known) < len(boards):
        return None
    used = step.gpus_used or len(boards)
    best = known[0]
    if measurement.unit == "FLOP/s":
        half = _HALF_PRECISION & {str(label).lower() for label in measurement.labels.values()}
        return used * (best.peak_bf16 if half else best.peak_fp8)
    if measurement.unit == "B/s":
        if any(word in measurement.name for word in _OVER_LINKS):
            return _IN_NETWORK_REDUCTION * _nvlink_bandwidth(best)
        return used * best.memory_bandwidth
    return None


def _nvlink_bandwidth(board: Board) -> float:
    return board.nvlinks * board.nvlink_bandwidth
