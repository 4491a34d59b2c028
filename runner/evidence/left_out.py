"""What a run may still say of its node when steps were left out for want of time. Pure."""

from collections.abc import Sequence

from runner.entry.model import Phase
from runner.evidence.record import Outcome, StepResult


def outcome_in_time(found: Outcome, steps: Sequence[StepResult]) -> Outcome:
    """The outcome, less a conclusion that the steps left out were needed for.

    | steps left out of | in place of | outcome |
    | --- | --- | --- |
    | Diagnose or Verify | healthy | inconclusive |
    | Fix or Verify | another outcome with exit status 0 (a fix was proved) | symptom |
    | Reproduce | not_reproduced | inconclusive |
    """
    without = {step.phase for step in steps if step.left_out}
    if found is Outcome.NOT_REPRODUCED and Phase.REPRODUCE in without:
        return Outcome.INCONCLUSIVE
    if found.exit_status:
        return found
    if found is Outcome.HEALTHY:
        return Outcome.INCONCLUSIVE if without & {Phase.DIAGNOSE, Phase.VERIFY} else found
    return Outcome.SYMPTOM if without & {Phase.FIX, Phase.VERIFY} else found
