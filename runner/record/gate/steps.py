"""Checks one step of a record: its status must follow from its exit status and document, its metrics be allowed."""

from collections.abc import Iterator, Mapping
from typing import Any

from runner.entry.model import Step
from runner.record.gate.numbers import measurement_problems
from runner.record.gate.printed import said_by, said_problems
from runner.record.gate.words import AGAIN, quoted
from runner.record.judge import judge_step
from runner.record.model import Document, Record, StepResult, StepStatus, Verdict
from runner.vocabulary import PROBES

_DOCUMENTS = ("ok", "symptom", "not_applicable")
# Tools of other projects whose documents are converted; such a command calls none of this project's probes.
# The first schema in which a step can be simulated.
_WITH_SIMULATED_STEPS = 5
_TOOLS = frozenset({"nccl_tests", "nvbandwidth"})


def step_problems(step: StepResult, record: Record) -> Iterator[str]:
    """Problems with one step that do not depend on its entry."""
    said = said_by(step)
    if step.status is StepStatus.SKIPPED and step.exit_status is None:
        yield from _skipped_problems(step)
    else:
        yield from _ended_problems(step, record, said)
    skipped_itself = step.status is StepStatus.SKIPPED and step.exit_status is not None
    if step.left_out and (
        record.options.within is None
        or step.status not in {StepStatus.SKIPPED, StepStatus.TIMEOUT}
        or skipped_itself
    ):
        yield f"was left out for lack of time, but had enough time; {AGAIN}"
    if min(step.stdout_dropped_bytes, step.stderr_dropped_bytes, step.processes_ended) < 0:
        yield f"has a negative count; {AGAIN}"
    if not 0 <= step.gpus_used <= len(record.machine.gpus):
        yield f"used {step.gpus_used} GPUs of {len(record.machine.gpus)}; {AGAIN}"
    yield from _probe_problems(step)
    if step.simulated and record.schema_version < _WITH_SIMULATED_STEPS:
        yield f"is called simulated in a record of schema {record.schema_version}, which has no such mark; {AGAIN}"
    if said is not None:
        yield from said_problems(step, said)
    seen: set[tuple[object, ...]] = set()
    for measurement in step.measurements:
        labels = sorted((name, type(value).__name__, value) for name, value in measurement.labels.items())
        key = (measurement.name, *labels)
        if key in seen:
            yield f"measured {measurement.name} twice with equal labels; add a label that differs"
        seen.add(key)
        yield from measurement_problems(measurement, record, step)


def _skipped_problems(step: StepResult) -> Iterator[str]:
    if not step.reason:
        yield f"was skipped without a reason; {AGAIN}"
    if (
        step.measurements
        or step.probe is not None
        or (step.started_at, step.duration_s) != (None, None)
        or step.stdout_tail
        or step.stderr_tail
        or step.gpus_used
        or step.processes_ended
    ):
        yield f"was skipped, but has fields of a step that ran; {AGAIN}"


def _ended_problems(step: StepResult, record: Record, said: Mapping[str, Any] | None) -> Iterator[str]:
    status = step.status
    if step.started_at is None or step.duration_s is None:
        yield f"ran, but has no start time or duration; {AGAIN}"
    if status in {StepStatus.TIMEOUT, StepStatus.INTERRUPTED} and (step.probe or step.measurements):
        # A document that was written before the step was terminated is incomplete, and is not kept.
        yield f"did not end, but has numbers; {AGAIN}"
    if status is StepStatus.SKIPPED and step.measurements:
        yield f"was skipped, but has numbers; {AGAIN}"
    if (
        status.broken or status in {StepStatus.FAILED, StepStatus.SYMPTOM, StepStatus.SKIPPED}
    ) and not step.reason:
        yield f"has the status {status} without a reason; {AGAIN}"
    if not status.broken:
        yield from _status_problems(step, record, said)


def _status_problems(step: StepResult, record: Record, said: Mapping[str, Any] | None) -> Iterator[str]:
    told = None if said is None else said.get("status")
    documents = [told] if told in _DOCUMENTS else list(_DOCUMENTS)
    found = {
        judge_step("exited", step.exit_status, one, None)[0]
        for one in ([None] if step.probe is None else [_document(step, str(status)) for status in documents])
    }
    missed = any(one.decides and one.verdict is Verdict.MISSED for one in record.verdicts)
    if StepStatus.PASSED in found and step.probe is not None and missed:
        # A step that passed can fail by a deciding expectation on its measurements.
        found.add(StepStatus.FAILED)
    if step.status not in found:
        ended = "no exit status" if step.exit_status is None else f"exit status {step.exit_status}"
        what = "its document" if step.probe else "no document"
        yield f"has the status {step.status}, which does not follow from {ended} and {what}; {AGAIN}"


def _document(step: StepResult, status: str) -> Document:
    return Document(
        probe=step.probe or "",
        method_version=step.method_version or 0,
        status=status,
        fallback_reason=step.fallback_reason,
        fallback_asked=step.fallback_asked,
    )


def _probe_problems(step: StepResult) -> Iterator[str]:
    if step.probe is None:
        if step.status is StepStatus.PASSED and step.reason:
            yield f"passed without a document, but has a reason; {AGAIN}"
        told = (
            step.measurements,
            step.requested,
            step.effective,
            step.details,
            step.fallback_reason,
            step.simulated,
        )
        if any(told) or step.fallback_asked or step.method_version is not None:
            yield f"has the contents of a document, but no probe; {AGAIN}"
        return
    info = PROBES.get(step.probe)
    if info is None:
        yield f"has the unknown probe {quoted(step.probe)}; add its module to runner/probes/"
        return
    if step.method_version is None or not 1 <= step.method_version <= info.method_version:
        yield (
            f"has method version {step.method_version} of {step.probe}, "
            f"but valid versions are 1 to {info.method_version}; {AGAIN}"
        )
    if step.probe in _TOOLS or f"runner.probes.{step.probe}" in step.command:
        return
    started = Step(id=step.id, phase=step.phase, command=step.command, line=0).probes
    if started and step.probe not in started:
        yield f"has a document of {step.probe}, but its command starts {', '.join(started)}; {AGAIN}"
