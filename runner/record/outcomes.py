"""The outcome of a run, judged by the current entry. Pure.

The outcome stored in a record is history: it was judged by the entry at that time. Stored records are judged again
before they are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.entry.model import Phase, Runbook
from runner.hardware.machine import Machine
from runner.record.judge import judge_expectations
from runner.record.looked import Looked, looked_at
from runner.record.model import Outcome, StepResult, StepStatus, StoredVerdict, Verdict
from runner.record.proof import proof_gaps


@dataclass(frozen=True, slots=True)
class Judged:
    """What a run says about its node.

    Attributes:
        unproved: for `drill_passed`, the reasons why its effect was not measured; else empty.
    """

    outcome: Outcome
    unproved: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """For `drill_passed`, the sentence that says what was not measured; else empty."""
        return drill_sentence(self.unproved)


def drill_sentence(reasons: Sequence[str]) -> str:
    """The meaning of `drill_passed`: `the fault was found and undone; its effect was not measured (…)`."""
    if not reasons:
        return ""
    return f"the fault was found and undone; its effect was not measured ({'; '.join(reasons)})"


def unrequested_fallback(step: StepResult) -> bool:
    """Whether a step failed because it ran something else than requested, without being asked to fall back."""
    fell_back = step.fallback_reason is not None and not step.fallback_asked
    return step.status is StepStatus.FAILED and fell_back


def judge_run(
    runbook: Runbook, steps: Sequence[StepResult], machine: Machine
) -> tuple[Judged, tuple[StoredVerdict, ...]]:
    """Judge the steps of a finished run by the current entry; also returns the verdict of every expectation.

    Steps that the entry no longer has keep their status; steps of its proof that are not in the run count as missing.
    """
    verdicts = judge_expectations(runbook, steps, machine)
    found = outcome_in_time(outcome(runbook, steps, verdicts, rehearsed=machine.simulated), steps)
    if found is Outcome.HEALTHY and machine.gpu_error and _kept_from_gpus(runbook, steps):
        # Steps that needed the GPUs could not check them.
        found = Outcome.INCONCLUSIVE
    return Judged(
        found, proof_gaps(runbook, steps, verdicts) if found is Outcome.DRILL_PASSED else ()
    ), verdicts


def outcome(
    runbook: Runbook,
    steps: Sequence[StepResult],
    verdicts: Sequence[StoredVerdict],
    *,
    rehearsed: bool = False,
) -> Outcome:
    """The outcome of a run. The first row that applies decides:

    | the run | outcome |
    | --- | --- |
    | a step ended in error, timeout or interrupted | incomplete |
    | every step was skipped (or there was none) | not_applicable |
    | every step that was not skipped was simulated | inconclusive |
    | a deciding expectation is inconclusive | inconclusive |
    | fault shown; Verify did not run | symptom |
    | fault shown; Verify ran; Verify or Fix is not clean | not_fixed |
    | fault shown; every step of Fix was skipped | symptom |
    | fault shown; something of the entry's proof is missing (`runner.record.proof`) | drill_passed |
    | fault shown | fix_proved |
    | Reproduce ran | not_reproduced |
    | Verify or Fix is not clean | not_fixed |
    | a step of Diagnose ran something else than requested (unrequested fallback) | inconclusive |
    | no step read this node: all judged samples or drills of their own | not_applicable |
    | a step of Diagnose judged this node | healthy |
    | no Diagnose was asked for; a step of Verify judged this node; Fix did not run | healthy |
    | otherwise | inconclusive: nothing could have found a fault of this node, or nothing looked before Fix |

    *Ran*: a step of the phase was neither skipped nor simulated. With `rehearsed`, for a run that was simulated as a
    whole, simulated steps count here, and still prove nothing. *Clean*: none of its steps is `symptom` or `failed`.
    *Fault shown*: Diagnose is not clean, or a step of Reproduce shows the symptom. A step that passed but whose
    deciding expectation was missed later (a ratio to a later step) counts as failed. *Read*, *judged this node*:
    `runner.record.looked`.
    """
    if any(step.status.broken for step in steps):
        return Outcome.INCOMPLETE
    taken = [step for step in steps if step.status is not StepStatus.SKIPPED]
    ran = [step for step in taken if rehearsed or not step.simulated]
    if not ran:
        return Outcome.INCONCLUSIVE if taken else Outcome.NOT_APPLICABLE
    if any(verdict.decides and verdict.verdict is Verdict.INCONCLUSIVE for verdict in verdicts):
        return Outcome.INCONCLUSIVE
    phases = {step.phase for step in ran}
    unclean = _unclean(runbook, ran, verdicts)
    fixed = not unclean & {Phase.FIX, Phase.VERIFY}
    reproduced = any(step.phase is Phase.REPRODUCE and step.status is StepStatus.SYMPTOM for step in ran)
    if Phase.DIAGNOSE in unclean or reproduced:
        fix_skipped = Phase.FIX not in phases and any(step.phase is Phase.FIX for step in steps)
        proved = not proof_gaps(runbook, steps, verdicts)
        return _after_fault(
            verified=Phase.VERIFY in phases, fixed=fixed, fix_skipped=fix_skipped, proved=proved
        )
    if Phase.REPRODUCE in phases:
        return Outcome.NOT_REPRODUCED
    if not fixed:
        return Outcome.NOT_FIXED
    if any(step.phase is Phase.DIAGNOSE and unrequested_fallback(step) for step in ran):
        return Outcome.INCONCLUSIVE
    return _without_fault(runbook, steps, ran)


def outcome_in_time(found: Outcome, steps: Sequence[StepResult]) -> Outcome:
    """The outcome without conclusions that depend on steps that were left out.

    | steps left out of | in place of | outcome |
    | --- | --- | --- |
    | Diagnose or Verify | healthy | inconclusive |
    | Fix | fix_proved, drill_passed | symptom |
    | Reproduce | not_reproduced | inconclusive |
    | any phase | not_applicable | inconclusive |

    A step of Verify that was left out and is part of the entry's proof prevents the fix from being proved, like any
    other step of the proof that did not run.
    """
    without = {step.phase for step in steps if step.left_out}
    match found:
        case Outcome.NOT_REPRODUCED if Phase.REPRODUCE in without:
            return Outcome.INCONCLUSIVE
        case Outcome.NOT_APPLICABLE if without:
            return Outcome.INCONCLUSIVE
        case Outcome.HEALTHY if without & {Phase.DIAGNOSE, Phase.VERIFY}:
            return Outcome.INCONCLUSIVE
        case Outcome.FIX_PROVED | Outcome.DRILL_PASSED if Phase.FIX in without:
            return Outcome.SYMPTOM
        case _:
            return found


def _kept_from_gpus(runbook: Runbook, steps: Sequence[StepResult]) -> bool:
    needing = {step.id for step in runbook.steps if step.gpus}
    return any(step.id in needing and step.status is StepStatus.SKIPPED for step in steps)


def _without_fault(runbook: Runbook, steps: Sequence[StepResult], ran: Sequence[StepResult]) -> Outcome:
    looks = [(step.phase, looked_at(runbook, step)) for step in ran]
    if all(look is Looked.SAMPLE for _, look in looks):
        return Outcome.NOT_APPLICABLE
    judged = {phase for phase, look in looks if look is Looked.NODE}
    # Verify alone speaks of the node after a fix. If Diagnose was asked for and did not look, nothing looked for the
    # fault: much of Verify passes on any node.
    diagnosing = any(step.phase is Phase.DIAGNOSE for step in steps)
    fixing = any(phase is Phase.FIX for phase, _ in looks)
    verified = Phase.VERIFY in judged and not diagnosing and not fixing
    return Outcome.HEALTHY if Phase.DIAGNOSE in judged or verified else Outcome.INCONCLUSIVE


def _after_fault(*, verified: bool, fixed: bool, fix_skipped: bool, proved: bool) -> Outcome:
    if not verified:
        return Outcome.SYMPTOM
    if not fixed:
        return Outcome.NOT_FIXED
    # The fault disappeared without the fix, which proves nothing about the fix.
    if fix_skipped:
        return Outcome.SYMPTOM
    return Outcome.FIX_PROVED if proved else Outcome.DRILL_PASSED


def _unclean(runbook: Runbook, ran: Sequence[StepResult], verdicts: Sequence[StoredVerdict]) -> set[Phase]:
    """Phases in which a step found the symptom, failed, or missed a deciding expectation.

    In Diagnose an unrequested fallback does not count: it is a fault of the step's run, not the entry's issue.
    """
    missed = {verdict.id for verdict in verdicts if verdict.decides and verdict.verdict is Verdict.MISSED}
    failed = {bound.step for bound in runbook.head.expectations if bound.id in missed}
    bad = {StepStatus.SYMPTOM, StepStatus.FAILED}
    return {
        step.phase
        for step in ran
        if step.id in failed
        or (step.status in bad and not (step.phase is Phase.DIAGNOSE and unrequested_fallback(step)))
    }
