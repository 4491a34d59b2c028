import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.entry.model import Claim, Evidence, Phase
from runner.record.judge import (
    failed_by_expectation,
    judge_claims,
    judge_expectations,
    judge_step,
)
from runner.record.model import (
    ClaimState,
    Document,
    Outcome,
    StepResult,
    StepStatus,
    StoredVerdict,
    Verdict,
)
from runner.record.outcomes import outcome
from tests.evidence_samples import B200, expectation, machine, measurement, runbook, step

CPU = machine()
S = StepStatus


def document(status: str = "ok", **changes: object) -> Document:
    return Document.model_validate({"probe": "collectives", "method_version": 1, "status": status} | changes)


@pytest.mark.parametrize(
    ("exit_status", "says", "status", "reason"),
    [
        (0, None, S.PASSED, None),
        (0, document(), S.PASSED, None),
        (1, document("symptom", reason="slow"), S.SYMPTOM, "slow"),
        (0, document("symptom"), S.SYMPTOM, "the probe found the symptom"),
        (1, None, S.ERROR, "exit status 1 without a symptom document is a crash, not a symptom"),
        (1, document(), S.ERROR, "exit status 1 without a symptom document is a crash, not a symptom"),
        (1, document("not_applicable"), S.ERROR, "exit status 1 without a symptom document"),
        (80, None, S.SKIPPED, "not applicable on this machine"),
        (80, document("not_applicable", reason="one GPU"), S.SKIPPED, "one GPU"),
        (0, document("not_applicable", reason="one GPU"), S.SKIPPED, "one GPU"),
        (
            80,
            document("symptom"),
            S.ERROR,
            "exit status 80 means not applicable, but the document says symptom",
        ),
        (2, None, S.ERROR, "bad usage"),
        (2, document("symptom"), S.ERROR, "bad usage"),
        (139, None, S.ERROR, "killed by SIGSEGV"),
        (-11, document("symptom"), S.ERROR, "killed by SIGSEGV"),
        (137, None, S.ERROR, "killed by SIGKILL (often the kernel's out-of-memory killer"),
        (127, None, S.ERROR, "was not found"),
        (3, document(), S.ERROR, "exit status 3"),
        (255, None, S.ERROR, "exit status 255"),
        (None, None, S.ERROR, "ended without an exit status"),
        (0, document(fallback_reason="no FP8"), S.FAILED, "unrequested fallback: no FP8"),
        (0, document(fallback_reason="no FP8", fallback_asked=True), S.PASSED, None),
        (1, document("symptom", reason="slow", fallback_reason="no FP8"), S.SYMPTOM, "slow"),
    ],
)
def test_exit_status_and_document_together_say_how_a_step_ended(
    exit_status: int | None, says: Document | None, status: StepStatus, reason: str | None
) -> None:
    found, why = judge_step("exited", exit_status, says, None)
    assert found is status
    assert (why is None) if reason is None else (why is not None and reason in why)


@pytest.mark.parametrize(
    ("ending", "status"),
    [("timeout", S.TIMEOUT), ("interrupted", S.INTERRUPTED), ("not_started", S.ERROR)],
)
def test_a_step_that_did_not_end_by_itself_is_broken_whatever_its_document_says(
    ending: str, status: StepStatus
) -> None:
    found, reason = judge_step(ending, 0, document(), None)
    assert found is status
    assert reason


def test_why_a_step_could_not_start_is_kept() -> None:
    assert (
        judge_step("not_started", None, None, "bash: not found")[1] == "could not be started: bash: not found"
    )


@pytest.mark.parametrize("exit_status", [0, 1])
def test_an_unbelievable_document_is_an_error(exit_status: int) -> None:
    assert judge_step("exited", exit_status, None, "result holds NaN") == (S.ERROR, "result holds NaN")


def test_a_crash_is_named_beside_its_unbelievable_document() -> None:
    assert judge_step("exited", 139, None, "result holds NaN")[1] == "killed by SIGSEGV; result holds NaN"


@given(
    ending=st.sampled_from(["exited", "timeout", "interrupted", "not_started"]),
    exit_status=st.none() | st.integers(-64, 255),
    says=st.none() | st.builds(document, st.sampled_from(["ok", "symptom", "not_applicable"])),
    problem=st.none() | st.just("not JSON"),
)
def test_only_a_clean_end_passes_and_only_a_document_makes_a_symptom(
    ending: str, exit_status: int | None, says: Document | None, problem: str | None
) -> None:
    status, reason = judge_step(ending, exit_status, says, problem)
    if status is S.PASSED:
        assert (ending, exit_status, problem) == ("exited", 0, None)
        assert says is None or says.status == "ok"
    else:
        assert reason
        assert "\n" not in reason
    if status is S.SYMPTOM:
        assert says is not None
        assert says.status == "symptom"


# What a run comes to.

_ALL = runbook(d="diagnose", r="reproduce", f="fix", v="verify")


def results(**statuses: str) -> list[StepResult]:
    return [
        step(name, phase=found.phase, status=S(statuses[name]))
        for name in statuses
        if (found := _ALL.step(name[0])) is not None
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (results(d="passed", v="error"), Outcome.INCOMPLETE),
        (results(d="symptom", r="interrupted"), Outcome.INCOMPLETE),
        (results(d="symptom", v="timeout"), Outcome.INCOMPLETE),
        ([], Outcome.NOT_APPLICABLE),
        (results(d="skipped", v="skipped"), Outcome.NOT_APPLICABLE),
        (results(d="passed"), Outcome.HEALTHY),
        (results(d="passed", v="passed"), Outcome.HEALTHY),
        (results(d="skipped", v="passed"), Outcome.INCONCLUSIVE),
        (results(d="passed", v="skipped"), Outcome.HEALTHY),
        (results(d="symptom"), Outcome.SYMPTOM),
        (results(d="failed"), Outcome.SYMPTOM),
        (results(d="symptom", f="passed", v="passed"), Outcome.FIX_PROVED),
        (results(d="symptom", v="passed"), Outcome.FIX_PROVED),
        (results(d="symptom", f="skipped", v="passed"), Outcome.SYMPTOM),
        (results(d="symptom", f="failed", v="passed"), Outcome.NOT_FIXED),
        (results(d="symptom", f="passed", v="symptom"), Outcome.NOT_FIXED),
        (results(d="failed", f="passed", v="failed"), Outcome.NOT_FIXED),
        (results(d="symptom", f="passed", v="skipped"), Outcome.SYMPTOM),
        (results(d="passed", r="symptom", f="passed", v="passed"), Outcome.FIX_PROVED),
        (results(r="symptom", f="passed", v="failed"), Outcome.NOT_FIXED),
        (results(r="symptom"), Outcome.SYMPTOM),
        (results(d="passed", r="passed", v="passed"), Outcome.NOT_REPRODUCED),
        (results(d="passed", r="failed", v="passed"), Outcome.NOT_REPRODUCED),
        (results(d="passed", r="skipped", v="passed"), Outcome.HEALTHY),
        (results(d="passed", v="failed"), Outcome.NOT_FIXED),
        (results(d="passed", f="failed"), Outcome.NOT_FIXED),
        (results(f="passed"), Outcome.INCONCLUSIVE),
        (results(d="skipped", f="passed", v="skipped"), Outcome.INCONCLUSIVE),
    ],
)
def test_the_table_of_outcomes(steps: list[StepResult], expected: Outcome) -> None:
    assert outcome(_ALL, steps, ()) is expected


def verdict(value: Verdict, *, decides: bool = True) -> StoredVerdict:
    return StoredVerdict(
        id="faq-floor", verdict=value, value=None, unit="1", evidence=Evidence.REPORTED, decides=decides
    )


def test_an_inconclusive_bound_leaves_the_run_inconclusive_only_where_it_decides() -> None:
    steps = results(d="passed", v="passed")
    assert outcome(_ALL, steps, [verdict(Verdict.INCONCLUSIVE)]) is Outcome.INCONCLUSIVE
    assert outcome(_ALL, steps, [verdict(Verdict.INCONCLUSIVE, decides=False)]) is Outcome.HEALTHY


def test_a_bound_missed_only_after_its_step_had_passed_counts_all_the_same() -> None:
    entry = runbook((expectation(metric="v.bus_bandwidth", min=1),), d="diagnose", v="verify")
    steps = results(d="symptom", v="passed")
    assert outcome(entry, steps, [verdict(Verdict.MISSED)]) is Outcome.NOT_FIXED
    assert outcome(entry, steps, [verdict(Verdict.MISSED, decides=False)]) is Outcome.FIX_PROVED


def _assert_no_unearned_tick(
    steps: Sequence[StepResult], verdicts: Sequence[StoredVerdict], found: Outcome
) -> None:
    by_phase = {phase: {s.status for s in steps if s.phase is phase} for phase in Phase}
    looked = by_phase[Phase.DIAGNOSE] | by_phase[Phase.VERIFY]
    if any(s.status.broken for s in steps):
        assert found is Outcome.INCOMPLETE
    if found.exit_status == 0:
        assert not any(s.status.broken for s in steps)
        assert S.PASSED in looked
        assert not by_phase[Phase.VERIFY] & {S.SYMPTOM, S.FAILED}
        assert not by_phase[Phase.FIX] & {S.SYMPTOM, S.FAILED}
        assert not any(v.decides and v.verdict is Verdict.INCONCLUSIVE for v in verdicts)
    if found is Outcome.HEALTHY:
        assert not by_phase[Phase.DIAGNOSE] & {S.SYMPTOM, S.FAILED}
        assert by_phase[Phase.REPRODUCE] <= {S.SKIPPED}
    if found is Outcome.FIX_PROVED:
        assert S.PASSED in by_phase[Phase.VERIFY]
        assert by_phase[Phase.FIX] != {S.SKIPPED}
        assert by_phase[Phase.DIAGNOSE] & {S.SYMPTOM, S.FAILED} or S.SYMPTOM in by_phase[Phase.REPRODUCE]
    if found is Outcome.NOT_APPLICABLE:
        assert all(s.status is S.SKIPPED for s in steps)


def test_no_combination_of_one_step_a_phase_gets_an_unearned_tick() -> None:
    choices: list[StepStatus | None] = [None, *S]
    for chosen in itertools.product(choices, repeat=4):
        steps = results(**{name: s for name, s in zip("drfv", chosen, strict=True) if s is not None})
        _assert_no_unearned_tick(steps, (), outcome(_ALL, steps, ()))


_STEP = st.builds(
    lambda phase, status: step("x", phase=phase, status=status), st.sampled_from(Phase), st.sampled_from(S)
)
_VERDICT = st.builds(
    lambda value, decides: verdict(value, decides=decides), st.sampled_from(Verdict), st.booleans()
)


@settings(max_examples=300)
@given(st.lists(_STEP, max_size=8), st.lists(_VERDICT, max_size=2))
def test_no_run_gets_an_unearned_tick(steps: list[StepResult], verdicts: list[StoredVerdict]) -> None:
    _assert_no_unearned_tick(steps, verdicts, outcome(_ALL, steps, verdicts))


# Expectations and claims.


def test_every_expectation_gets_a_verdict_with_its_evidence() -> None:
    floor = expectation(min=30, unit="GB/s")
    rumour = expectation(id="faq-rumour", min=90, unit="GB/s", evidence="unsourced")
    found = judge_expectations(
        runbook((floor, rumour), busbw="diagnose"), [step("busbw", measurement(40e9))], CPU
    )
    assert [(v.id, v.verdict, v.decides) for v in found] == [
        ("faq-floor", Verdict.MET, True),
        ("faq-rumour", Verdict.MISSED, False),
    ]


def test_a_missed_deciding_expectation_fails_its_step_and_says_by_how_much() -> None:
    entry = runbook((expectation(min=30, max=90, unit="GB/s"),), busbw="diagnose")
    reason = failed_by_expectation(entry, step("busbw", measurement(12e9)), [], CPU)
    assert reason == (
        "expectation faq-floor missed: busbw.bus_bandwidth is 12.0 GB/s, "
        "expected at least 30.0 GB/s and at most 90.0 GB/s"
    )


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({"evidence": "unsourced"}, "diagnose"),
        ({"on": {"gpu": "B200"}}, "diagnose"),
        ({}, "reproduce"),
        ({"metric": "other.bus_bandwidth"}, "diagnose"),
        ({"min": 10}, "diagnose"),
        ({"at": {"bytes": 5}}, "diagnose"),
    ],
)
def test_an_expectation_that_does_not_decide_or_is_not_missed_fails_nothing(
    changes: dict[str, object], phase: str
) -> None:
    entry = runbook((expectation(**({"min": 30, "unit": "GB/s"} | changes)),), busbw=phase)
    assert failed_by_expectation(entry, step("busbw", measurement(12e9)), [], CPU) is None


def test_a_bound_on_a_ratio_to_an_earlier_step_can_fail_the_later_one() -> None:
    entry = runbook((expectation(over="base.bus_bandwidth", min=2),), base="diagnose", busbw="verify")
    earlier = [step("base", measurement(10e9))]
    reason = failed_by_expectation(entry, step("busbw", measurement(15e9)), earlier, CPU)
    assert reason is not None
    assert "busbw.bus_bandwidth / base.bus_bandwidth is 1.50, expected at least 2" in reason


def test_an_expectation_for_this_hardware_decides_here() -> None:
    entry = runbook((expectation(min=800, unit="GB/s", on={"gpu": "B200", "count": 8}),), busbw="diagnose")
    found = judge_expectations(entry, [step("busbw", measurement(838e9))], machine(*[B200] * 8))
    assert (found[0].verdict, found[0].decides) == (Verdict.MET, True)


def claim(**conditions: object) -> Claim:
    return Claim.model_validate({"id": "c", "text": "t", "evidence": "reported", "source": "s"} | conditions)


ABOVE = {"metric": "busbw.bus_bandwidth", "min": 20e9}
BELOW = {"metric": "busbw.bus_bandwidth", "max": 10e9}


@pytest.mark.parametrize(
    ("conditions", "value", "state"),
    [
        ({"confirmed_if": ABOVE, "contradicted_if": BELOW}, 30e9, ClaimState.CONFIRMED),
        ({"confirmed_if": ABOVE, "contradicted_if": BELOW}, 5e9, ClaimState.CONTRADICTED),
        ({"confirmed_if": ABOVE, "contradicted_if": BELOW}, 15e9, ClaimState.UNDECIDED),
        ({"confirmed_if": ABOVE}, 5e9, ClaimState.UNDECIDED),
        ({"contradicted_if": BELOW}, 5e9, ClaimState.CONTRADICTED),
        ({}, 5e9, ClaimState.UNDECIDED),
    ],
)
def test_a_claim_is_decided_by_the_bound_that_is_met(
    conditions: dict[str, object], value: float, state: ClaimState
) -> None:
    entry = runbook(claims=(claim(**conditions),), busbw="diagnose")
    found, shown = judge_claims(entry, [step("busbw", measurement(value))], CPU)["c"]
    assert found is state
    assert (shown is None) is (not conditions)


def test_a_claim_whose_bounds_are_both_met_stays_undecided_and_says_why() -> None:
    entry = runbook(claims=(claim(confirmed_if=ABOVE, contradicted_if=ABOVE),), busbw="diagnose")
    found, shown = judge_claims(entry, [step("busbw", measurement(30e9))], CPU)["c"]
    assert found is ClaimState.UNDECIDED
    assert shown is not None
    assert "overlap" in str(shown.note)


def test_a_spread_that_covers_the_bound_leaves_a_claim_undecided() -> None:
    entry = runbook(claims=(claim(confirmed_if=ABOVE),), busbw="diagnose")
    noisy = step("busbw", measurement(20e9, 15e9, 18e9, 20e9, 22e9, 25e9))
    assert judge_claims(entry, [noisy], CPU)["c"][0] is ClaimState.UNDECIDED
