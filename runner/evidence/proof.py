"""What an entry names as its proof, held against the steps of a run: what did not run or was not measured. Pure."""

from collections.abc import Mapping, Sequence

from runner.entry.model import Expectation, Phase, ProofItem, Runbook, Scalar
from runner.evidence.measured import fitting
from runner.evidence.record import StepResult, StepStatus, StoredVerdict, Verdict


def unproved(
    runbook: Runbook, steps: Sequence[StepResult], verdicts: Sequence[StoredVerdict]
) -> tuple[str, ...]:
    """Why the proof is not there, a reason for each part that is missing; empty where all of it is.

    Missing are: a step of Fix that was skipped; an item of the proof that did not run in Verify or was not measured;
    and, where the entry bounds an item, a bound that applies to this machine and was met. A step that the entry has
    changed since counts as it ran; its numbers are shown as stale.

    Args:
        runbook: the entry.
        steps: of the run.
        verdicts: of every expectation of the entry, for this run.

    Returns:
        Lines such as `verify/graphs: needs 1 GPU, this host has none`.
    """
    proof = runbook.head.proof
    if not proof:
        return ("the entry names no proof",)
    # One that ran and had nothing to do here (exit status 80) keeps nothing from being fixed.
    reasons = [
        f"fix/{step.id}: {step.reason or 'skipped'}"
        for step in steps
        if step.phase is Phase.FIX and step.status is StepStatus.SKIPPED and step.exit_status is None
    ]
    results = {step.id: step for step in steps if step.phase is Phase.VERIFY}
    judged = {verdict.id: verdict for verdict in verdicts}
    for item in proof:
        missing = _missing(item, results.get(item.step))
        reasons += [missing] if missing else _unbounded(runbook, item, judged)
    # Two numbers of a step that was skipped are missing for one reason.
    return tuple(dict.fromkeys(reasons))


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


def _unbounded(runbook: Runbook, item: ProofItem, judged: Mapping[str, StoredVerdict]) -> list[str]:
    """Why what was measured proves nothing: none of its bounds is for this machine, or one could not be judged."""
    bounds = [bound for bound in runbook.head.expectations if bound.evidence.decides and _bounds(bound, item)]
    here = [judged[bound.id] for bound in bounds if bound.id in judged and judged[bound.id].decides]
    if bounds and not here:
        return [f"verify/{item.step}: the entry has no bound on {item.measurement} for this machine"]
    return [
        f"verify/{item.step}: {verdict.id} was not judged" + (f" ({verdict.note})" if verdict.note else "")
        for verdict in here
        if verdict.verdict is Verdict.NOT_EVALUATED
    ]


def _bounds(bound: Expectation, item: ProofItem) -> bool:
    """Whether a bound is on what the item names: the same number, at labels that do not contradict it."""
    return bound.metric == item.metric and all(
        bound.at.get(label, value) == value for label, value in item.at.items()
    )


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
