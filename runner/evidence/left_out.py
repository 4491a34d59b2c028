"""What a run may still say of its node when steps were left out for want of time. Pure."""

from collections.abc import Sequence

from runner.entry.model import Phase
from runner.evidence.record import Outcome, StepResult


def outcome_in_time(found: Outcome, steps: Sequence[StepResult]) -> Outcome:
    """The outcome, less a conclusion that the steps left out were needed for.

    | steps left out of | in place of | outcome |
    | --- | --- | --- |
    | Diagnose or Verify | healthy | inconclusive |
    | Fix | fix_proved, drill_passed | symptom |
    | Reproduce | not_reproduced | inconclusive |
    | any phase | not_applicable | inconclusive |

    A step of Verify that was left out keeps a fix from being proved where it is part of the entry's proof, as any
    other step of it that did not run does.
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
