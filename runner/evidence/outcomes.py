"""What a run comes to: its outcome, judged by the entry as it is now. Pure.

The outcome that a record stores is history: it was the word of the entry as it was then. Whatever is shown of a stored
record is judged anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.entry.model import Phase, Runbook
from runner.evidence.judge import judge_expectations, step_of
from runner.evidence.left_out import outcome_in_time
from runner.evidence.proof import unproved
from runner.evidence.record import Outcome, StepResult, StepStatus, StoredVerdict, Verdict
from runner.hardware.machine import Machine


@dataclass(frozen=True, slots=True)
class Judged:
    """What a run says of its node.

    Attributes:
        unproved: for `drill_passed`, why its effect was not measured, a reason an item; else empty.
    """

    outcome: Outcome
    unproved: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """For `drill_passed` the sentence that says what was not measured; else empty."""
        return drill_sentence(self.unproved)


def drill_sentence(reasons: Sequence[str]) -> str:
    """What `drill_passed` means here: `the fault was found and undone; its effect was not measured (…)`."""
    if not reasons:
        return ""
    return f"the fault was found and undone; its effect was not measured ({'; '.join(reasons)})"


def judge_run(
    runbook: Runbook, steps: Sequence[StepResult], machine: Machine
) -> tuple[Judged, tuple[StoredVerdict, ...]]:
    """Judge the steps of a run that is over, by the entry as it is now; with the verdict of every expectation.

    Steps that the entry no longer has say what they said; those of its proof that are not among the run's are missing.
    """
    verdicts = judge_expectations(runbook, steps, machine)
    found = outcome_in_time(outcome(runbook, steps, verdicts), steps)
    if found is Outcome.HEALTHY and machine.gpu_error and _kept_from_gpus(runbook, steps):
        # What needed the GPUs could not look at them.
        found = Outcome.INCONCLUSIVE
    return Judged(
        found, unproved(runbook, steps, verdicts) if found is Outcome.DRILL_PASSED else ()
    ), verdicts


def outcome(runbook: Runbook, steps: Sequence[StepResult], verdicts: Sequence[StoredVerdict]) -> Outcome:
    """What a run says about its node. The first line that applies decides:

    | the run | outcome |
    | --- | --- |
    | a step ended in error, timeout or interrupted | incomplete |
    | every step was skipped (or there was none) | not_applicable |
    | a deciding expectation is inconclusive | inconclusive |
    | fault shown; Verify did not run | symptom |
    | fault shown; Verify ran; Verify or Fix is not clean | not_fixed |
    | fault shown; every step of Fix was skipped | symptom |
    | fault shown; something of the entry's proof is missing (`runner.evidence.proof`) | drill_passed |
    | fault shown | fix_proved |
    | Reproduce ran | not_reproduced |
    | Verify or Fix is not clean | not_fixed |
    | Diagnose ran, or Verify without Fix | healthy |
    | Diagnose did not run | inconclusive: nothing looked at the node as it was before Fix |

    *Ran*: a step of the phase was not skipped. *Clean*: none of its steps is `symptom` or `failed`. *Fault shown*:
    Diagnose is not clean, or a step of Reproduce shows the symptom. A step whose deciding expectation turned out
    missed after it had passed (a ratio to a later step) counts as failed.
    """
    if any(step.status.broken for step in steps):
        return Outcome.INCOMPLETE
    ran = [step for step in steps if step.status is not StepStatus.SKIPPED]
    if not ran:
        return Outcome.NOT_APPLICABLE
    if any(verdict.decides and verdict.verdict is Verdict.INCONCLUSIVE for verdict in verdicts):
        return Outcome.INCONCLUSIVE
    phases = {step.phase for step in ran}
    unclean = _unclean(runbook, ran, verdicts)
    mended = not unclean & {Phase.FIX, Phase.VERIFY}
    reproduced = any(step.phase is Phase.REPRODUCE and step.status is StepStatus.SYMPTOM for step in ran)
    if Phase.DIAGNOSE in unclean or reproduced:
        fix_skipped = Phase.FIX not in phases and any(step.phase is Phase.FIX for step in steps)
        proved = not unproved(runbook, steps, verdicts)
        return _after_fault(
            verified=Phase.VERIFY in phases, mended=mended, fix_skipped=fix_skipped, proved=proved
        )
    if Phase.REPRODUCE in phases:
        return Outcome.NOT_REPRODUCED
    if not mended:
        return Outcome.NOT_FIXED
    looked = Phase.DIAGNOSE in phases or (Phase.VERIFY in phases and Phase.FIX not in phases)
    return Outcome.HEALTHY if looked else Outcome.INCONCLUSIVE


def _kept_from_gpus(runbook: Runbook, steps: Sequence[StepResult]) -> bool:
    needing = {step.id for step in runbook.steps if step.gpus}
    return any(step.id in needing and step.status is StepStatus.SKIPPED for step in steps)


def _after_fault(*, verified: bool, mended: bool, fix_skipped: bool, proved: bool) -> Outcome:
    if not verified:
        return Outcome.SYMPTOM
    if not mended:
        return Outcome.NOT_FIXED
    # The fault went away without its fix: that proves nothing about the fix.
    if fix_skipped:
        return Outcome.SYMPTOM
    return Outcome.FIX_PROVED if proved else Outcome.DRILL_PASSED


def _unclean(runbook: Runbook, ran: Sequence[StepResult], verdicts: Sequence[StoredVerdict]) -> set[Phase]:
    """Phases in which a step found the symptom, failed, or missed a deciding expectation."""
    missed = {verdict.id for verdict in verdicts if verdict.decides and verdict.verdict is Verdict.MISSED}
    failed = {step_of(bound.metric) for bound in runbook.head.expectations if bound.id in missed}
    bad = {StepStatus.SYMPTOM, StepStatus.FAILED}
    return {step.phase for step in ran if step.status in bad or step.id in failed}
