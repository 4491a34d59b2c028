"""A node is called healthy only by a step that judged it: not by a sample, a drill or a list of settings."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.diagnosis_text import as_text
from runner.cli.summary import Ended, look_at
from runner.entry.model import Phase, Runbook, Step
from runner.entry.plan import Request, make_plan
from runner.entry.read import read_all
from runner.hardware.gpus import look_at_gpus
from runner.record.diagnosis import Obstacle, State, diagnose_entry, diagnosis_status
from runner.record.gate.record import record_problems
from runner.record.looked import FINDS, Looked, looked_at
from runner.record.model import Outcome, StepResult, StepStatus
from runner.record.outcomes import judge_run
from runner.record.settings import step_settings
from runner.vocabulary.sources import SAMPLES
from tests.builders import a_machine, a_runbook
from tests.evidence_samples import machine, measurement, record, runbook, step

ROOT = Path(__file__).parents[1]
NOW = datetime(2027, 1, 1, tzinfo=UTC)
ENTRIES = {entry.id: entry for entry in read_all(ROOT / "runbooks")}
# Entries about GPUs, NICs and ranks that are not here, all of whose steps are cheap or skipped.
ELSEWHERE = ("xid-triage", "gpu-memory-ecc", "nvlink-link-errors", "gpu-not-usable", "pcie-numa-placement")
ENTRY = runbook(look="diagnose", list="diagnose", mend="fix", again="verify", sample="verify")


def ran(step_id: str, phase: Phase = Phase.DIAGNOSE, **effective: Any) -> StepResult:
    return step(step_id, phase=phase, effective=effective)


def skipped(step_id: str, phase: Phase = Phase.DIAGNOSE) -> StepResult:
    return step(step_id, phase=phase, status=StepStatus.SKIPPED, reason="this host has no NVIDIA GPU")


LIVE, SETTINGS = ran("look", source="nvml"), ran("list", source="host", finds=False)
SAMPLE = ran("sample", Phase.VERIFY, source="captured")
AGAIN = ran("again", Phase.VERIFY, source="nvml")


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ((LIVE,), Outcome.HEALTHY),
        ((LIVE, SETTINGS, SAMPLE), Outcome.HEALTHY),
        ((LIVE, skipped("again", Phase.VERIFY)), Outcome.HEALTHY),
        # Verify alone speaks of the node after a fix.
        ((AGAIN,), Outcome.HEALTHY),
        ((AGAIN, SAMPLE), Outcome.HEALTHY),
        # Nothing of this node was looked at.
        ((SAMPLE,), Outcome.NOT_APPLICABLE),
        ((skipped("look"), SAMPLE), Outcome.NOT_APPLICABLE),
        ((skipped("look"), skipped("again", Phase.VERIFY)), Outcome.NOT_APPLICABLE),
        # Something was read, and nothing that could have found the fault.
        ((skipped("look"), SETTINGS, SAMPLE), Outcome.INCONCLUSIVE),
        ((SETTINGS,), Outcome.INCONCLUSIVE),
        ((SETTINGS, AGAIN), Outcome.INCONCLUSIVE),
        ((skipped("look"), AGAIN), Outcome.INCONCLUSIVE),
        ((ran("mend", Phase.FIX), AGAIN), Outcome.INCONCLUSIVE),
    ],
)
def test_only_a_step_that_judged_this_node_makes_it_healthy(
    steps: tuple[StepResult, ...], outcome: Outcome
) -> None:
    assert judge_run(ENTRY, steps, machine())[0].outcome is outcome


_STEP = st.builds(
    lambda phase, source, finds: step(
        phase.value, phase=phase, effective={"source": source} | ({} if finds else {FINDS: False})
    ),
    st.sampled_from([Phase.DIAGNOSE, Phase.VERIFY]),
    st.sampled_from([*sorted(SAMPLES), "nvml", "host", "kernel", "journal", "cuda"]),
    st.booleans(),
)


@given(st.lists(_STEP, max_size=5))
def test_no_run_is_healthy_in_which_no_step_judged_this_node(steps: list[StepResult]) -> None:
    judged = [one for one in steps if looked_at(ENTRY, one) is Looked.NODE]
    healthy = judge_run(ENTRY, steps, machine())[0].outcome is Outcome.HEALTHY
    assert not healthy or judged
    assert healthy or not any(one.phase is Phase.DIAGNOSE for one in judged)


def test_a_fault_in_a_sample_that_is_undone_still_passes_the_drill() -> None:
    provoked = step(
        "look", phase=Phase.REPRODUCE, status=StepStatus.SYMPTOM, effective={"source": "captured"}
    )
    found = judge_run(ENTRY, [skipped("look"), provoked, SAMPLE], machine())[0]
    assert found.outcome is Outcome.DRILL_PASSED


def a_drill(*, drill: bool) -> Runbook:
    return a_runbook(Step(id="undone", phase=Phase.VERIFY, command="true", line=1, drill=drill))


def test_a_step_that_its_entry_marks_as_a_drill_does_not_make_a_node_healthy_whatever_its_probe_says() -> (
    None
):
    undone = ran("undone", Phase.VERIFY, source="host")
    assert judge_run(a_drill(drill=False), [undone], machine())[0].outcome is Outcome.HEALTHY
    assert judge_run(a_drill(drill=True), [undone], machine())[0].outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("source", [["captured"], {"of": "captured"}, 1, True])
def test_a_source_that_is_no_word_is_not_this_node(source: Any) -> None:
    assert judge_run(ENTRY, [ran("look", source=source)], machine())[0].outcome is Outcome.NOT_APPLICABLE


def test_a_record_that_calls_a_sample_this_node_is_not_believed() -> None:
    entry = ENTRIES["gpu-memory-ecc"]
    renamed = step("reset-text", phase=Phase.VERIFY, effective={"source": "nvml"})
    assert looked_at(entry, renamed) is Looked.SAMPLE
    labelled = step("look", measurement(1.0, source="captured"), effective={"source": "nvml"})
    assert looked_at(ENTRY, labelled) is Looked.SAMPLE
    live = step("look", measurement(1.0, source="nvml"), effective={"source": "nvml"})
    assert looked_at(ENTRY, live) is Looked.NODE


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda one: one.id)
def test_a_step_that_is_given_a_text_or_a_tree_never_judges_the_node(entry: Runbook) -> None:
    for one in entry.steps:
        if any(f" {option} " in one.command for option in ("--from", "--root", "--capability")):
            assert looked_at(entry, step(one.id, phase=one.phase)) is Looked.SAMPLE, one.id


def test_steps_of_an_entry_that_bring_their_own_fault_are_marked() -> None:
    injecting = ("--inject-stall", "--inject corrupted", "--fault late", "export MASTER_ADDR=127")
    for entry in ENTRIES.values():
        for one in entry.steps:
            if one.phase in {Phase.DIAGNOSE, Phase.VERIFY} and any(word in one.command for word in injecting):
                assert one.drill, f"{entry.id}/{one.id}"


def test_the_gate_believes_a_run_that_only_the_entry_can_tell_is_a_drill_and_not_one_that_judged_a_sample() -> (
    None
):
    def said(outcome: Outcome, *steps: StepResult) -> list[str]:
        return [one for one in record_problems(record(*steps, outcome=outcome), NOW) if "outcome" in one]

    assert said(Outcome.HEALTHY, LIVE) == said(Outcome.NOT_APPLICABLE, LIVE) == []
    (lie,) = said(Outcome.HEALTHY, SAMPLE)
    assert lie == "has the outcome healthy, but its steps give not_applicable; run the entry again"
    assert said(Outcome.HEALTHY, SETTINGS)


def test_a_diagnosis_lists_no_finding_only_for_steps_that_could_have_found_something() -> None:
    entry = a_runbook()
    both = diagnose_entry(entry, [LIVE, SETTINGS])
    assert (both.state, both.looked) == (State.CLEAR, ("look",))
    alone = diagnose_entry(entry, [skipped("look"), SETTINGS])
    assert (alone.state, alone.looked, diagnosis_status([alone])) == (State.NOT_LOOKED, (), 3)
    assert [one.kind for one in alone.not_looked] == [Obstacle.OTHER, Obstacle.FINDS_NOTHING]
    lines = list(as_text([alone], "cpu", 1.0, verbose=True))
    assert lines[0] == "no check ran: an-entry"
    assert any("an-entry/list: read, and finds nothing by itself" in line for line in lines)
    # It ran, so it is none of those that did not.
    assert any(line.startswith("1 step not run by `diagnose` here") for line in lines)
    # What it read is still compared with other nodes.
    listed = SETTINGS.model_copy(update={"details": {"settings": {"driver": "580"}}})
    assert step_settings(listed) == {"driver": "580"}


def test_the_summary_says_why_steps_that_ran_leave_the_node_unknown() -> None:
    entry = a_drill(drill=True)
    plan = make_plan(entry, a_machine(), Request())
    ended = record(ran("undone", Phase.VERIFY), outcome=Outcome.NOT_APPLICABLE)
    (line,) = look_at(Ended(plan, ended))
    assert line == "nvlink verify/undone: judges a sample or a drill of its own, not this node"
    unlooked = record(skipped("look"), ran("again", Phase.VERIFY), outcome=Outcome.INCONCLUSIVE)
    assert list(look_at(Ended(plan, unlooked))) == ["nvlink: no step of Diagnose judged this node"]


def probed(*words: str, text: str = "") -> StepResult:
    """What a probe says that it looked at, in a step that passed."""
    done = subprocess.run(
        [sys.executable, "-m", *words], input=text, capture_output=True, text=True, timeout=120, check=False
    )
    # What it finds on this host is not asked.
    assert done.returncode in {0, 1}, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    return step("one", effective=document["effective"])


@pytest.mark.parametrize(
    ("words", "text", "looked"),
    [
        (("host_paths", "--group", "limits"), "", Looked.NODE),
        (("host_paths", "--group", "settings"), "", Looked.SETTINGS),
        (("kernel_log", "--from", "-"), "[1.0] a quiet kernel\n", Looked.SAMPLE),
        (("cuda_fit", "--arch-list", "sm_100", "--capability", "10.0"), "", Looked.SAMPLE),
        (("long_context_validation", "--plan", "--model", "70b", "--board", "B200"), "", Looked.SAMPLE),
        (("long_context_validation", "--plan", "--model", "tiny", "--budget-gib", "8"), "", Looked.SAMPLE),
        (("long_context_validation", "--plan", "--budget-share", "0.99"), "", Looked.NODE),
        (("nccl_env", "--running"), "", Looked.NODE),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_a_probe_says_whether_it_looked_at_this_node(
    words: tuple[str, ...], text: str, looked: Looked
) -> None:
    name, *rest = words
    assert looked_at(a_runbook(), probed(f"runner.probes.{name}", *rest, text=text)) is looked


@pytest.mark.system
@pytest.mark.parametrize("entry", ELSEWHERE)
def test_an_entry_about_gpus_calls_no_host_without_gpus_healthy(entry: str, tmp_path: Path) -> None:
    if look_at_gpus().gpus:
        pytest.skip("this host has GPUs")
    words = ["run", entry, "--json", "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    (found,) = json.loads(done.stdout)
    assert found["outcome"] in {"not_applicable", "inconclusive"}
    assert done.returncode == 3
