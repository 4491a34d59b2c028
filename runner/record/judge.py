"""Derives step statuses and the verdicts of expectations and claims. Pure.

First rule: nothing passes without evidence. Anything that could not be determined is reported as unknown.
"""

import dataclasses
import signal
from collections.abc import Mapping, Sequence

from runner.base.units import format_value, to_stored
from runner.entry.model import Claim, Expectation, Phase, Runbook
from runner.hardware.machine import Machine
from runner.record.evaluation import Evaluated, evaluate, fits
from runner.record.model import (
    ClaimState,
    Document,
    StepResult,
    StepStatus,
    StoredVerdict,
    Verdict,
)

_EXIT_OK, _EXIT_SYMPTOM, _EXIT_BAD_USAGE = 0, 1, 2
_SHELL_SIGNAL_BASE = 128

_ENDINGS: Mapping[str, tuple[StepStatus, str]] = {
    "timeout": (StepStatus.TIMEOUT, "still running at its deadline"),
    "interrupted": (StepStatus.INTERRUPTED, "interrupted"),
    "not_started": (StepStatus.ERROR, "could not be started"),
}
_MEANINGS: Mapping[int, str] = {
    _EXIT_BAD_USAGE: "exit status 2, bad usage",
    126: "exit status 126, a command in the block is not executable",
    127: "exit status 127, a command in the block was not found",
}
_CRASH = "exit status 1 without a symptom document is a crash, not a symptom"
_KILLED = " (often the kernel's out-of-memory killer; check `dmesg`)"


def judge_step(
    ending: str,
    exit_status: int | None,
    document: Document | None,
    problem: str | None,
    said: str | None = None,
) -> tuple[StepStatus, str | None]:
    """The status of a step, and the reason if the status needs one.

    Args:
        ending: `exited`, `timeout`, `interrupted` or `not_started`.
        exit_status: exit status of the block; negative for a signal, as in `subprocess`.
        document: the result document of the block, if it wrote one.
        problem: why that document is invalid (the text of a `DocumentError`), why nothing started, or what could not
            be terminated.
        said: the last line of its error output (`last_words`), the reason if its exit status is not a verdict.

    An exit status and a document that contradict each other are an error, because neither can be trusted.
    """
    if ending != "exited":
        return _not_exited(ending, problem)
    if exit_status is None:
        return StepStatus.ERROR, "ended without an exit status"
    if problem is not None:
        odd = exit_status not in {_EXIT_OK, _EXIT_SYMPTOM}
        return StepStatus.ERROR, f"{_told(describe_exit(exit_status), said)}; {problem}" if odd else problem
    says = None if document is None else document.status
    match exit_status, says:
        case (0, None | "ok"):
            return _passed(document)
        case (0 | 1, "symptom"):
            return StepStatus.SYMPTOM, _reason(document, "the probe found the symptom")
        case (0 | 80, "not_applicable") | (80, None | "ok"):
            return StepStatus.SKIPPED, _reason(document, _told("not applicable on this machine", said))
        case (80, "symptom"):
            return StepStatus.ERROR, "exit status 80 means not applicable, but the document says symptom"
        case _:
            return StepStatus.ERROR, _told(describe_exit(exit_status), said)


def _not_exited(ending: str, problem: str | None) -> tuple[StepStatus, str]:
    status, why = _ENDINGS[ending]
    if problem:
        return status, f"{why}: {problem}"
    return status, f"{why}, terminated" if status is StepStatus.TIMEOUT else why


def _told(meaning: str, said: str | None) -> str:
    return f"{meaning}: {said}" if said else meaning


def _passed(document: Document | None) -> tuple[StepStatus, str | None]:
    if document is None:
        return StepStatus.PASSED, None
    if document.fallback_reason is not None and not document.fallback_asked:
        return StepStatus.FAILED, f"unrequested fallback: {document.fallback_reason}"
    return StepStatus.PASSED, document.reason


def _reason(document: Document | None, otherwise: str) -> str:
    return (None if document is None else document.reason) or otherwise


def describe_exit(exit_status: int) -> str:
    """The meaning of an exit status that is not a verdict: 139 and -11 are `killed by SIGSEGV`."""
    if exit_status == _EXIT_SYMPTOM:
        return _CRASH
    number = -exit_status if exit_status < 0 else exit_status - _SHELL_SIGNAL_BASE
    try:
        name = signal.Signals(number).name
    except ValueError:
        return _MEANINGS.get(exit_status, f"exit status {exit_status}")
    return f"killed by {name}{_KILLED if name == 'SIGKILL' else ''}"


def judge_expectations(
    runbook: Runbook, steps: Sequence[StepResult], machine: Machine
) -> tuple[StoredVerdict, ...]:
    """Judge every expectation of the entry by the steps of the run."""
    return tuple(_stored(runbook, expectation, steps, machine) for expectation in runbook.head.expectations)


def _stored(
    runbook: Runbook, expectation: Expectation, steps: Sequence[StepResult], machine: Machine
) -> StoredVerdict:
    found = evaluate(expectation, steps, machine)
    return StoredVerdict(
        id=expectation.id,
        verdict=found.verdict,
        value=found.value,
        unit=found.unit,
        evidence=expectation.evidence,
        decides=decides(runbook, expectation, machine),
        note=found.note,
    )


def decides(runbook: Runbook, expectation: Expectation, machine: Machine) -> bool:
    """Whether missing this expectation fails its step here.

    Its bound must have a source and apply to this hardware. A Reproduce step is meant to show the fault, so a bound on
    its measurements decides nothing.
    """
    step = runbook.step(expectation.step)
    reproduces = step is not None and step.phase is Phase.REPRODUCE
    return expectation.evidence.decides and fits(expectation.on, machine) and not reproduces


def failed_by_expectation(
    runbook: Runbook, result: StepResult, earlier: Sequence[StepResult], machine: Machine
) -> str | None:
    """Why a step that ran is `failed` by an expectation on its measurements; None if it is not."""
    steps = [*(step for step in earlier if step.id != result.id), result]
    for expectation in runbook.head.expectations:
        if expectation.step != result.id or not decides(runbook, expectation, machine):
            continue
        found = evaluate(expectation, steps, machine)
        if found.verdict is Verdict.MISSED:
            return f"expectation {expectation.id} missed: {_missed(expectation, found)}"
    return None


def _missed(expectation: Expectation, found: Evaluated) -> str:
    def shown(bound: float) -> str:
        stored, unit = to_stored(bound, expectation.unit or found.unit)
        return format_value(stored, unit)

    wanted = [f"at least {shown(expectation.min)}"] if expectation.min is not None else []
    wanted += [f"at most {shown(expectation.max)}"] if expectation.max is not None else []
    subject = expectation.metric + (f" / {expectation.over}" if expectation.over else "")
    return f"{subject} is {format_value(found.value, found.unit)}, expected {' and '.join(wanted)}"


def judge_claims(
    runbook: Runbook, steps: Sequence[StepResult], machine: Machine
) -> Mapping[str, tuple[ClaimState, Evaluated | None]]:
    """What the run says about each claim of the entry, by claim id, with the deciding bound.

    A claim is decided by the bound that is met. If both are met, the bounds contradict each other and the claim stays
    undecided.
    """
    return {claim.id: _claim(claim, steps, machine) for claim in runbook.head.claims}


def _claim(
    claim: Claim, steps: Sequence[StepResult], machine: Machine
) -> tuple[ClaimState, Evaluated | None]:
    confirms = None if claim.confirmed_if is None else evaluate(claim.confirmed_if, steps, machine)
    contradicts = None if claim.contradicted_if is None else evaluate(claim.contradicted_if, steps, machine)
    for_it = confirms is not None and confirms.verdict is Verdict.MET
    against = contradicts is not None and contradicts.verdict is Verdict.MET
    if confirms is not None and for_it and against:
        note = "confirmed_if and contradicted_if are both met; the claim's bounds overlap"
        return ClaimState.UNDECIDED, dataclasses.replace(confirms, note=note)
    if for_it:
        return ClaimState.CONFIRMED, confirms
    if against:
        return ClaimState.CONTRADICTED, contradicts
    return ClaimState.UNDECIDED, confirms or contradicts
