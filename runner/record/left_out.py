"""The outcome of a run in which steps were left out for lack of time. Pure."""

from collections.abc import Sequence

from runner.entry.model import Phase
from runner.record.model import Outcome, StepResult


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
