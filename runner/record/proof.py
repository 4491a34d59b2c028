"""Checks the proof of an entry against the steps of a run: which parts did not run or were not measured. Pure.

The reasons are stored in records, and the gate compares them: a changed wording makes stored records fail the gate.
"""

from collections.abc import Mapping, Sequence

from runner.entry.model import Expectation, Phase, ProofItem, Runbook, Scalar
from runner.record.evaluation import fitting
from runner.record.model import StepResult, StepStatus, StoredVerdict, Verdict


def proof_gaps(
    runbook: Runbook, steps: Sequence[StepResult], verdicts: Sequence[StoredVerdict]
) -> tuple[str, ...]:
    """Why the fix is not proved: one reason for each missing part of the proof; empty if the proof is complete.

    A part is missing if a step of Fix was skipped, if an item of the proof did not run in Verify, was not measured or
    was simulated, or if the entry bounds an item but no such bound applies to this machine and was met. A step that the
    entry has changed since counts as it ran; its numbers are shown as stale.

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
    # A step that ran and did not apply (exit status 80) does not prevent a fix.
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
    # Several numbers of one skipped step are missing for the same reason.
    return tuple(dict.fromkeys(reasons))


def _missing(item: ProofItem, result: StepResult | None) -> str | None:
    where = f"verify/{item.step}"
    if result is None:
        return f"{where}: not part of this run"
    if result.status is StepStatus.SKIPPED:
        return f"{where}: {result.reason or 'skipped'}"
    if not result.status.finished:
        return f"{where}: {result.status}" + (f" ({result.reason})" if result.reason else "")
    if result.simulated:
        return f"{where}: simulated, which proves nothing"
    if item.measurement is None or fitting(result.measurements, item.measurement, item.at):
        return None
    because = f": {result.reason}" if result.reason else ""
    return f"{where}: {_not_measured(item, item.measurement, result)}{because}"


def _unbounded(runbook: Runbook, item: ProofItem, judged: Mapping[str, StoredVerdict]) -> list[str]:
    """Why a measured item proves nothing: no bound applies to this machine, or a bound could not be judged."""
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
    """Whether a bound applies to an item: the same number, with labels that do not contradict it."""
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
