"""What an entry names as its proof, held against the steps of a run: what did not run or was not measured. Pure."""

from collections.abc import Mapping, Sequence

from runner.entry.model import ProofItem, Runbook, Scalar
from runner.evidence.measured import fitting
from runner.evidence.record import StepResult, StepStatus


def unproved(runbook: Runbook, steps: Sequence[StepResult]) -> tuple[str, ...]:
    """Why the proof is not there, a reason for each item that is missing; empty where all of it is.

    A step that the entry has changed since counts as it ran; its numbers are shown as stale.

    Returns:
        Lines such as `verify/graphs: needs 1 GPU, this host has none`.
    """
    proof = runbook.head.proof
    if not proof:
        return ("the entry names no proof",)
    results = {step.id: step for step in steps}
    reasons = (_missing(item, results.get(item.step)) for item in proof)
    # Two numbers of a step that was skipped are missing for one reason.
    return tuple(dict.fromkeys(reason for reason in reasons if reason))


def _missing(item: ProofItem, result: StepResult | None) -> str | None:
    where = f"verify/{item.step}"
    if result is None:
        return f"{where}: not part of this run"
    if result.status is StepStatus.SKIPPED:
        return f"{where}: {result.reason or 'skipped'}"
    if not result.status.finished:
        return f"{where}: {result.status}" + (f" ({result.reason})" if result.reason else "")
    if item.measurement is None or fitting(result.measurements, item.measurement, item.at):
        return None
    because = f": {result.reason}" if result.reason else ""
    return f"{where}: {_not_measured(item, item.measurement, result)}{because}"


def _not_measured(item: ProofItem, name: str, result: StepResult) -> str:
    """`bus_bandwidth (backend nccl) was not measured, only at backend gloo`."""
    said = f"{name}{f' ({_words(item.at)})' if item.at else ''} was not measured"
    elsewhere = dict.fromkeys(
        _words({label: one.labels[label] for label in item.at if label in one.labels})
        for one in result.measurements
        if one.name == name
    )
    found = " or ".join(filter(None, elsewhere))
    return f"{said}, only at {found}" if found else said


def _words(labels: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{label} {value}" for label, value in labels.items())
