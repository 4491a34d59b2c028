"""What proves an entry: no run is called a proof while something that the entry names as its proof is missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.entry.model import Expectation, Phase, ProofItem, Runbook, Scalar
from runner.entry.read import read_all
from runner.history.endings import ending_of
from runner.record.judge import judge_expectations
from runner.record.model import Measurement, Outcome, Record, StepResult, StepStatus
from runner.record.outcomes import Judged, judge_run, outcome
from runner.record.proof import proof_gaps
from runner.record.store import Store
from tests.evidence_samples import expectation, machine, measurement, record, runbook, step

ROOT = Path(__file__).parents[1]
ENTRIES = {entry.id: entry for entry in read_all(ROOT / "runbooks")}
S = StepStatus
PROOF = (
    ProofItem(metric="graphs"),
    ProofItem(metric="bandwidth.bus_bandwidth", at={"backend": "nccl"}),
    ProofItem(metric="bandwidth.wrong_elements"),
)


def an_entry(*proof: ProofItem) -> Runbook:
    return runbook(
        proof=proof, look="diagnose", broken="reproduce", mend="fix", graphs="verify", bandwidth="verify"
    )


ENTRY = an_entry(*PROOF)


def judge(entry: Runbook, steps: Sequence[StepResult]) -> Judged:
    return judge_run(entry, steps, machine())[0]


def judged(entry: Runbook, stored: Record) -> Judged | None:
    ending = ending_of(entry, stored)
    return ending.judged if ending else None


def verified(*measurements: Measurement, **statuses: StepStatus) -> list[StepResult]:
    """A fault that was found and undone; `graphs` and `bandwidth` as told."""
    return [
        step("look", status=S.SYMPTOM),
        step("mend", phase=Phase.FIX),
        *(
            step(
                name,
                *(measurements if name == "bandwidth" else ()),
                phase=Phase.VERIFY,
                status=status,
                reason="needs 1 GPU, this host has none" if status is S.SKIPPED else None,
            )
            for name, status in statuses.items()
        ),
    ]


def bandwidth(backend: str = "nccl", **labels: Any) -> Measurement:
    return measurement(1e9, backend=backend, **labels)


WRONG = measurement(0, name="wrong_elements")


def test_a_fix_is_proved_where_every_item_of_the_proof_ran_or_was_measured() -> None:
    steps = verified(bandwidth(ranks=2), bandwidth(ranks=4), WRONG, graphs=S.PASSED, bandwidth=S.PASSED)
    found = judge(ENTRY, steps)
    assert (found.outcome, found.unproved, found.why) == (Outcome.FIX_PROVED, (), "")


@pytest.mark.parametrize(
    ("steps", "reasons"),
    [
        (
            verified(bandwidth(), WRONG, graphs=S.SKIPPED, bandwidth=S.PASSED),
            ["verify/graphs: needs 1 GPU, this host has none"],
        ),
        (verified(bandwidth(), WRONG, bandwidth=S.PASSED), ["verify/graphs: not part of this run"]),
        (
            verified(bandwidth("gloo"), WRONG, graphs=S.PASSED, bandwidth=S.PASSED),
            ["verify/bandwidth: bus_bandwidth (backend nccl) was not measured, only at backend gloo"],
        ),
        (
            verified(measurement(1e9), WRONG, graphs=S.PASSED, bandwidth=S.PASSED),
            ["verify/bandwidth: bus_bandwidth (backend nccl) was not measured"],
        ),
        (
            verified(graphs=S.PASSED, bandwidth=S.SKIPPED),
            ["verify/bandwidth: needs 1 GPU, this host has none"],
        ),
        (
            verified(bandwidth(), graphs=S.SKIPPED, bandwidth=S.PASSED),
            [
                "verify/graphs: needs 1 GPU, this host has none",
                "verify/bandwidth: wrong_elements was not measured",
            ],
        ),
    ],
)
def test_where_an_item_is_missing_the_drill_has_passed_and_each_reason_is_named(
    steps: Sequence[StepResult], reasons: list[str]
) -> None:
    found = judge(ENTRY, steps)
    assert found.outcome is Outcome.DRILL_PASSED
    assert found.outcome.exit_status == 0
    assert list(found.unproved) == reasons
    assert found.why == (
        f"the fault was found and undone; its effect was not measured ({'; '.join(reasons)})"
    )


def test_a_number_that_is_missing_is_explained_by_what_its_step_said() -> None:
    steps = [
        *verified(graphs=S.PASSED),
        step("bandwidth", WRONG, bandwidth("gloo"), phase=Phase.VERIFY, reason="no NCCL in this torch"),
    ]
    assert proof_gaps(ENTRY, steps, judge_expectations(ENTRY, steps, machine())) == (
        "verify/bandwidth: bus_bandwidth (backend nccl) was not measured, only at backend gloo: no NCCL in this torch",
    )


def test_an_entry_that_names_no_proof_is_never_proved() -> None:
    found = judge(an_entry(), verified(graphs=S.PASSED, bandwidth=S.PASSED))
    assert (found.outcome, found.unproved) == (Outcome.DRILL_PASSED, ("the entry names no proof",))


@pytest.mark.parametrize("status", [S.SYMPTOM, S.FAILED])
def test_a_fault_that_is_still_there_is_no_drill_that_passed(status: StepStatus) -> None:
    steps = verified(graphs=status)
    assert judge(ENTRY, steps).outcome is Outcome.NOT_FIXED


def test_an_unrequested_fallback_in_diagnose_leaves_the_node_unknown_and_shows_no_fault() -> None:
    fell_back = step("busbw", status=StepStatus.FAILED, fallback_reason="no FP8")
    entry = an_entry()
    assert judge(entry, [fell_back]).outcome is Outcome.INCONCLUSIVE
    beside = step("other", status=StepStatus.SYMPTOM)
    assert judge(entry, [fell_back, beside]).outcome is Outcome.SYMPTOM
    in_verify = step("again", phase=Phase.VERIFY, status=StepStatus.FAILED, fallback_reason="no FP8")
    assert judge(entry, [fell_back, in_verify]).outcome is Outcome.NOT_FIXED
    asked = fell_back.model_copy(update={"fallback_asked": True})
    assert judge(entry, [asked]).outcome is Outcome.SYMPTOM


def test_a_healthy_node_needs_no_proof() -> None:
    steps = [step("look"), step("graphs", phase=Phase.VERIFY, status=S.SKIPPED, reason="no GPU")]
    found = judge(ENTRY, steps)
    assert (found.outcome, found.unproved) == (Outcome.HEALTHY, ())


def test_a_stored_word_is_history_and_its_steps_are_judged_by_the_entry_as_it_is_now() -> None:
    stored = record(
        step("look", status=S.SYMPTOM),
        step("old-graphs", phase=Phase.VERIFY),
        outcome=Outcome.FIX_PROVED,
    )
    found = judged(an_entry(ProofItem(metric="graphs")), stored)
    assert found is not None
    assert (found.outcome, found.unproved) == (Outcome.DRILL_PASSED, ("verify/graphs: not part of this run",))
    # Bounds that the entry has got since count too, and a step that has changed since says what it said.
    bound = expectation(metric="graphs.bus_bandwidth", min=1e12)
    entry = runbook((bound,), look="diagnose", graphs="verify")
    slow = step("graphs", measurement(1.0), phase=Phase.VERIFY, digest="feedfeedfeedfeed")
    again = judged(entry, record(step("look", status=S.SYMPTOM), slow, outcome=Outcome.FIX_PROVED))
    assert again is not None
    assert again.outcome is Outcome.NOT_FIXED


def test_a_run_that_was_cut_off_has_no_outcome() -> None:
    assert judged(ENTRY, record(step("look"), outcome=None)) is None


_LABELS = st.dictionaries(st.sampled_from(["backend", "ranks"]), st.sampled_from(["nccl", "gloo", 2]))
_MEASURED = st.builds(
    lambda name, labels: measurement(1.0, name=name, **labels),
    st.sampled_from(["bus_bandwidth", "wrong_elements", "environment_ratio"]),
    _LABELS,
)
_RESULT = st.builds(
    lambda name, phase, status, measured: step(name, *measured, phase=phase, status=status),
    st.sampled_from(["look", "broken", "mend", "graphs", "bandwidth", "elsewhere"]),
    st.sampled_from(Phase),
    st.sampled_from(S),
    st.lists(_MEASURED, max_size=3),
)
_ITEM = st.builds(
    lambda metric, at: ProofItem(metric=metric, at=at if "." in metric else {}),
    st.sampled_from(["graphs", "bandwidth", "bandwidth.bus_bandwidth", "bandwidth.wrong_elements"]),
    _LABELS,
)


def _carries(labels: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def _is_there(item: ProofItem, steps: Sequence[StepResult]) -> bool:
    """Said without the code under test: some run of the step ended well, with the number if one is asked for."""
    name = item.metric.partition(".")[2]
    return any(
        one.id == item.metric.partition(".")[0]
        and one.status in {S.PASSED, S.SYMPTOM, S.FAILED}
        and (not name or any(m.name == name and _carries(m.labels, item.at) for m in one.measurements))
        for one in steps
    )


@settings(max_examples=500)
@given(st.lists(_RESULT, max_size=7), st.lists(_ITEM, max_size=3))
def test_no_run_is_a_proof_while_an_item_of_its_proof_is_missing(
    steps: list[StepResult], proof: list[ProofItem]
) -> None:
    found = judge(an_entry(*proof), steps)
    complete = bool(proof) and all(_is_there(item, steps) for item in proof)
    if found.outcome is Outcome.FIX_PROVED:
        assert complete
    assert bool(found.unproved) == (found.outcome is Outcome.DRILL_PASSED)
    # And the word for a proof that is missing is given only where with a proof it would be one.
    whatever = an_entry(*(ProofItem(metric=one.id) for one in steps if one.status is S.PASSED))
    if found.outcome is Outcome.DRILL_PASSED:
        assert outcome(whatever, steps, ()) in {Outcome.FIX_PROVED, Outcome.DRILL_PASSED}


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(ENTRIES)),
    st.lists(st.sampled_from(S), min_size=20, max_size=20),
    st.booleans(),
)
def test_no_entry_of_this_project_is_proved_by_statuses_alone_where_it_asks_for_a_number(
    name: str, statuses: list[StepStatus], reproduced: bool
) -> None:
    entry = ENTRIES[name]
    steps = [
        step(
            one.id,
            phase=one.phase,
            status=S.SYMPTOM if one.phase is Phase.REPRODUCE and reproduced else status,
        )
        for one, status in zip(entry.steps, statuses, strict=False)
    ]
    if any(item.measurement for item in entry.head.proof):
        assert judge(entry, steps).outcome is not Outcome.FIX_PROVED


@pytest.mark.parametrize("name", ["nvlink-bandwidth", "single-gpu-rollback"])
def test_no_published_run_of_a_host_without_gpus_proves_an_entry_about_gpus(name: str) -> None:
    found = [
        judged(ENTRIES[name], one)
        for one in Store(ROOT / "site_data").records(runbook=name)
        if not one.machine.gpus
    ]
    assert found
    assert Outcome.FIX_PROVED not in {one.outcome for one in found if one}


def nvlink(*bandwidths: Measurement, slow: tuple[Measurement, ...] = ()) -> Outcome:
    """A run of entry 2 in which nothing but the bandwidth differs: Verify's, and that with the fault injected."""
    entry = ENTRIES["nvlink-bandwidth"]
    measured = {"bandwidth-again": bandwidths, "injected-bandwidth": slow}
    steps = [
        step(
            one.id,
            *measured.get(one.id, ()),
            phase=one.phase,
            status=S.SYMPTOM if one.phase is Phase.REPRODUCE else S.PASSED,
        )
        for one in entry.steps
    ]
    return judge_run(entry, steps, machine("NVIDIA H100 80GB HBM3"))[0].outcome


def test_nvlink_is_proved_by_ranks_over_nccl_and_not_by_processes_over_gloo_or_one_gpu() -> None:
    labels: dict[str, Any] = {"bytes": 2**28, "arm": "caller", "ranks": 2}
    # Not all_reduce, which NVLS can keep fast without peer access.
    ops = ("broadcast", "all_to_all")
    fast = tuple(bandwidth(op=op, **labels) for op in ops)
    slow = tuple(one.model_copy(update={"value": one.value / 10}) for one in fast)
    assert nvlink(*fast, slow=slow) is Outcome.FIX_PROVED
    # Without the bandwidth that the fault left, nothing says that the fix gained any.
    assert nvlink(*fast) is Outcome.DRILL_PASSED
    assert nvlink(*fast, slow=slow[:1]) is nvlink(*fast, slow=slow[1:]) is Outcome.DRILL_PASSED
    assert nvlink(*(bandwidth("gloo", op=op, **labels) for op in ops), slow=slow) is Outcome.DRILL_PASSED
    # One GPU: the probe ends as not applicable, with no number at all.
    assert nvlink() is Outcome.DRILL_PASSED


@pytest.mark.parametrize(
    ("gpu", "outcome"),
    [("NVIDIA B200", Outcome.FIX_PROVED), ("NVIDIA A100-SXM4-80GB", Outcome.DRILL_PASSED)],
)
def test_a_number_without_a_bound_for_this_machine_proves_nothing(gpu: str, outcome: Outcome) -> None:
    bound = {
        "id": "fast",
        "metric": "bandwidth.bus_bandwidth",
        "min": 1,
        "unit": "GB/s",
        "on": {"gpu": "B200"},
    }
    head = ENTRY.head.model_copy(
        update={
            "expectations": (Expectation.model_validate(bound | {"evidence": "chosen", "source": "here"}),)
        }
    )
    steps = verified(bandwidth(), WRONG, graphs=S.PASSED, bandwidth=S.PASSED)
    found = judge_run(ENTRY.model_copy(update={"head": head}), steps, machine(gpu))[0]
    assert found.outcome is outcome
    if outcome is Outcome.DRILL_PASSED:
        assert found.unproved == (
            "verify/bandwidth: the entry has no bound on bus_bandwidth for this machine",
        )


def test_a_fix_of_which_a_step_was_not_allowed_is_not_proved_and_one_with_nothing_to_do_is_no_hindrance() -> (
    None
):
    steps = verified(bandwidth(), WRONG, graphs=S.PASSED, bandwidth=S.PASSED)
    host = step("host", phase=Phase.FIX, status=S.SKIPPED, exit_status=None, reason="changes the host")
    found = judge(ENTRY, [*steps, host])
    assert (found.outcome, found.unproved) == (Outcome.DRILL_PASSED, ("fix/host: changes the host",))
    none = step("none", phase=Phase.FIX, status=S.SKIPPED, exit_status=80)
    assert judge(ENTRY, [*steps, none]).outcome is Outcome.FIX_PROVED


def test_a_step_that_ran_before_the_fix_is_no_proof() -> None:
    early = [one for one in verified(graphs=S.PASSED, bandwidth=S.PASSED) if one.id != "bandwidth"]
    early.append(step("bandwidth", bandwidth(), phase=Phase.DIAGNOSE))
    found = judge(ENTRY, early)
    assert (found.outcome, found.unproved) == (
        Outcome.DRILL_PASSED, ("verify/bandwidth: not part of this run",),
    )  # fmt: skip


def test_a_node_whose_gpus_cannot_be_read_is_not_healthy_where_steps_needed_them() -> None:
    entry = ENTRIES["nvlink-bandwidth"]
    steps = [
        step("settings"),
        step("wiring", status=S.SKIPPED, exit_status=None, reason="the GPUs of this host cannot be read"),
    ]
    unreadable = machine().model_copy(update={"gpu_error": "NVML: Unknown Error"})
    assert judge_run(entry, steps, machine())[0].outcome is Outcome.HEALTHY
    assert judge_run(entry, steps, unreadable)[0].outcome is Outcome.INCONCLUSIVE
