"""A step that was left out for want of time never leads to a better word about the node."""

import pytest

from runner.entry.model import Phase
from runner.record.model import Outcome, StepStatus
from runner.record.outcomes import outcome_in_time
from tests.evidence_samples import step

D, R, F, V = Phase.DIAGNOSE, Phase.REPRODUCE, Phase.FIX, Phase.VERIFY


@pytest.mark.parametrize(
    ("found", "without", "outcome"),
    [
        (Outcome.HEALTHY, D, Outcome.INCONCLUSIVE),
        (Outcome.HEALTHY, V, Outcome.INCONCLUSIVE),
        (Outcome.HEALTHY, F, Outcome.HEALTHY),
        (Outcome.FIX_PROVED, V, Outcome.FIX_PROVED),
        (Outcome.DRILL_PASSED, F, Outcome.SYMPTOM),
        (Outcome.DRILL_PASSED, V, Outcome.DRILL_PASSED),
        (Outcome.FIX_PROVED, F, Outcome.SYMPTOM),
        (Outcome.FIX_PROVED, D, Outcome.FIX_PROVED),
        (Outcome.FIX_PROVED, R, Outcome.FIX_PROVED),
        (Outcome.NOT_REPRODUCED, R, Outcome.INCONCLUSIVE),
        (Outcome.NOT_REPRODUCED, V, Outcome.NOT_REPRODUCED),
        (Outcome.NOT_FIXED, V, Outcome.NOT_FIXED),
        (Outcome.NOT_APPLICABLE, D, Outcome.INCONCLUSIVE),
    ],
)
def test_what_was_left_out_is_not_concluded(found: Outcome, without: Phase, outcome: Outcome) -> None:
    steps = [step("ran", phase=phase) for phase in Phase]
    skipped = step("late", phase=without, status=StepStatus.SKIPPED, exit_status=None)
    left_out = skipped.model_copy(update={"left_out": True})
    assert outcome_in_time(found, [*steps, left_out]) is outcome
    assert outcome_in_time(found, [*steps, skipped]) is found


@pytest.mark.parametrize("found", list(Outcome))
@pytest.mark.parametrize("phase", list(Phase))
def test_no_outcome_becomes_a_better_one(found: Outcome, phase: Phase) -> None:
    left_out = step(phase=phase, status=StepStatus.SKIPPED, exit_status=None, left_out=True)
    after = outcome_in_time(found, [left_out])
    assert after is found or after.exit_status
