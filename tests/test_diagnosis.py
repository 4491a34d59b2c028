"""How the results of `diagnose` are sorted and ranked, and how they are printed for people and for monitoring."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.cluster_diagnose import _urgency
from runner.cli.diagnosis_formats import as_nagios, as_prometheus, nagios_status
from runner.cli.diagnosis_text import as_text
from runner.entry.model import Phase, Safety, Severity, Step
from runner.fleet.gathering import NodeDiagnosis
from runner.node.findings import Action
from runner.record.diagnosis import (
    Diagnosis,
    Obstacle,
    State,
    as_json,
    diagnose_entry,
    diagnosis_status,
    ends_service,
    grave,
    rank,
)
from runner.record.model import StepResult, StepStatus
from tests.builders import a_runbook
from tests.evidence_samples import step
from tests.test_fleet_view import a_job


def a_result(step_id: str, status: str, reason: str | None = None, **details: Any) -> StepResult:
    return step(step_id, status=StepStatus(status), reason=reason, details=details)


def a_diagnosis(*results: StepResult, entry: str = "an-entry", number: int = 7, **kwargs: Any) -> Diagnosis:
    return diagnose_entry(a_runbook(runbook_id=entry, number=number), results, **kwargs)


def graded(*severities: str) -> dict[str, Any]:
    return {"findings": [{"severity": severity} for severity in severities]}


CLEAR = a_diagnosis(a_result("d", "passed"), entry="clear", number=1)
HINT = a_diagnosis(a_result("d", "passed", "pid 7 is busy"), entry="hint", number=2)
FOUND = a_diagnosis(a_result("d", "symptom", "a | slow link", **graded("high")), entry="found", number=9)
MILD = a_diagnosis(a_result("d", "symptom", "an old name", **graded("low", "medium")), entry="mild", number=8)
BLIND = a_diagnosis(a_result("d", "timeout", "still running"), entry="blind", number=3)
IDLE = a_diagnosis(a_result("d", "skipped", "loads the device"), entry="idle", number=4)


def acted(*findings: dict[str, Any], status: str = "symptom", **kwargs: Any) -> Diagnosis:
    return a_diagnosis(a_result("d", status, "what the probe says", findings=list(findings)), **kwargs)


def node_finding(action: str, where: str = "GPU 3", **more: Any) -> dict[str, Any]:
    found = {"kind": f"a-{action}", "where": where, "found": f"needs {action}", "next": f"do {action}"}
    return {"action": action, "severity": "low", **found, **more}


DRAIN = acted(node_finding("drain", vendor="Reboot (GPU recovery action)"), entry="drain", number=6)
RESTART = acted(node_finding("restart", severity="critical"), entry="restart", number=2)
NOTE = acted(node_finding("keep"), status="passed", entry="note", number=3)


def test_entries_with_findings_come_first_and_those_without_a_check_last() -> None:
    ranked = rank([IDLE, CLEAR, BLIND, HINT, MILD, FOUND])
    assert [one.entry for one in ranked] == ["found", "mild", "hint", "blind", "clear", "idle"]
    assert [one.state for one in ranked] == [State.FOUND, *State]


def test_among_findings_the_gravest_count_first_and_then_how_many_there_are() -> None:
    def found(entry: str, *severities: str) -> Diagnosis:
        return a_diagnosis(a_result("d", "symptom", **graded(*severities)), entry=entry)

    several = found("several", "high", "medium", "medium")
    one, lesser = found("one", "high", "low"), found("lesser", "medium", "medium", "medium", "medium")
    assert [d.entry for d in rank([lesser, one, several])] == ["several", "one", "lesser"]


def test_a_probe_that_grades_nothing_leaves_the_entrys_own_severity() -> None:
    assert a_diagnosis(a_result("d", "symptom", "slow")).severity is Severity.MEDIUM
    assert a_diagnosis(a_result("d", "failed", "missed")).severity is Severity.MEDIUM


@pytest.mark.parametrize(
    ("diagnoses", "status", "nagios", "severe"),
    [
        ([CLEAR, IDLE], 0, 0, False),
        ([HINT], 0, 0, False),
        ([BLIND, CLEAR], 3, 3, False),
        ([IDLE], 3, 3, False),
        ([], 3, 3, False),
        ([MILD, BLIND], 1, 1, False),
        ([FOUND, BLIND], 1, 2, True),
        ([RESTART, BLIND], 1, 1, False),
        ([DRAIN, BLIND], 1, 2, True),
    ],
)
def test_every_exit_status(diagnoses: list[Diagnosis], status: int, nagios: int, severe: bool) -> None:
    assert (diagnosis_status(diagnoses), nagios_status(diagnoses), grave(diagnoses)) == (
        status,
        nagios,
        severe,
    )


def test_a_step_that_unreadable_gpus_blocked_makes_the_node_unknown_and_is_listed_without_verbose() -> None:
    blind = a_diagnosis(a_result("d", "passed"), a_result("w", "skipped", "cannot be read"), blocked=["w"])
    assert diagnosis_status([blind]) == 3
    listed, *verdict = as_text([blind], "cpu", 1.0)
    assert listed == "blocked: an-entry/w: cannot be read"
    assert verdict[0].startswith("unknown: 1 check was blocked, on cpu in 1.0 s")


def test_an_unrequested_fallback_is_unknown_and_not_the_issue_of_the_entry() -> None:
    failed = a_result("d", "failed", "ran in BF16").model_copy(update={"fallback_reason": "no FP8"})
    one = a_diagnosis(failed)
    assert (one.state, one.findings, diagnosis_status([one])) == (State.UNKNOWN, (), 3)
    assert "blocked: an-entry/d: ran in BF16" in list(as_text([one], "cpu", 1.0))
    beside = a_diagnosis(failed, a_result("e", "symptom", "slow"))
    assert (beside.state, diagnosis_status([beside])) == (State.FOUND, 1)
    asked = failed.model_copy(update={"fallback_asked": True})
    assert a_diagnosis(asked).state is State.FOUND


STEPS: dict[str, tuple[dict[str, Any], Obstacle]] = {
    "big": ({"gpus": 8, "safety": Safety.LOADS_DEVICE}, Obstacle.GPUS),
    "wide": ({"nodes": 2}, Obstacle.NODES),
    "load": ({"safety": Safety.LOADS_DEVICE}, Obstacle.LOADS),
    "load-two": ({"safety": Safety.LOADS_DEVICE, "gpus": 2}, Obstacle.LOADS),
    "change": ({"safety": Safety.CHANGES_HOST}, Obstacle.CHANGES),
    "absent": ({}, Obstacle.OTHER),
}


def test_a_healthy_host_gets_one_line_with_how_many_steps_were_not_run_and_why_and_verbose_lists_them() -> (
    None
):
    steps = [
        Step(id=name, phase=Phase.DIAGNOSE, command="true", line=1, **attributes)
        for name, (attributes, _) in STEPS.items()
    ]
    entry = a_runbook(*steps, runbook_id="one")
    skipped = [a_result(name, "skipped", f"why {name}") for name in STEPS]
    one = diagnose_entry(entry, [a_result("d", "passed"), *skipped], gpus=2)
    assert {blind.step: blind.kind for blind in one.not_looked} == {n: kind for n, (_, kind) in STEPS.items()}
    short = list(as_text([one, IDLE], "cpu-example", 2.0))
    not_run = (
        "7 steps not run by `diagnose` here: 2 load the device, 2 do not apply here, 1 needs GPUs, "
        "1 needs more nodes, 1 changes the host; --verbose lists them"
    )
    assert short == [
        "no findings: one (d)",
        "no check ran: idle",
        not_run,
        "no findings in the checks that ran, on cpu-example in 2.0 s",
        "read only: nothing was loaded or changed",
    ]
    listed = list(as_text([one, IDLE], "cpu-example", 2.0, verbose=True))
    assert [line for line in listed if line.startswith("   ")] == [
        *(f"   one/{name}: why {name}" for name in STEPS),
        "   idle/d: loads the device",
    ]
    told = as_json([one])[0]["not_looked"]
    assert [(blind["step"], blind["kind"], blind["blocked"]) for blind in told] == [
        (name, kind.value, False) for name, (_, kind) in STEPS.items()
    ]


def test_without_a_check_that_ran_the_node_is_unknown() -> None:
    assert "\nunknown: no check could run here, " in "\n".join(as_text([IDLE], "cpu", 1.0))


def test_the_text_names_finding_fix_entry_and_hint() -> None:
    cured = a_diagnosis(a_result("d", "symptom", "slow", undo=["unset A"], by_hand=["sed b"]), entry="cured")
    text = "\n".join(as_text(rank([cured, FOUND, HINT, IDLE]), "cpu-example-x86_64-2c", 1.25))
    for line in (
        "high     entry 9, found: a | slow link",
        "         more:   runbook show found",
        "         fix:    unset A",
        "         fix:    # by hand: sed b",
        "         more:   runbook show cured",
        "check    entry 2, hint: pid 7 is busy",
    ):
        assert line in text.splitlines()


def test_what_must_be_done_ranks_before_severity_and_number() -> None:
    unnamed = a_diagnosis(a_result("d", "symptom", **graded("high", "high")), entry="unnamed", number=5)
    ranked = rank([NOTE, RESTART, unnamed, DRAIN])
    assert [one.entry for one in ranked] == ["drain", "restart", "unnamed", "note"]
    assert ranked[-1].state is State.HINT


@pytest.mark.parametrize(
    ("action", "ends", "critical"),
    [
        ("keep", False, False),
        ("restart", False, False),
        ("reset", True, True),
        ("drain", True, True),
        ("replace", True, True),
    ],
)
def test_only_an_action_that_ends_service_counts_in_a_prolog_whatever_the_severity(
    action: str, ends: bool, critical: bool
) -> None:
    one = acted(node_finding(action, severity="critical"))
    assert (ends_service([one]), grave([one]), diagnosis_status([one])) == (ends, critical, 1)
    assert not ends_service([FOUND])
    # A note of a step that passed is no finding.
    assert (ends_service([NOTE]), diagnosis_status([NOTE])) == (False, 0)


def test_the_text_leads_with_the_action_and_names_place_next_step_vendor_and_entry() -> None:
    text = list(as_text(rank([NOTE, RESTART, DRAIN]), "cpu", 1.0))
    assert text[:8] == [
        "drain    GPU 3: needs drain",
        "         next:   do drain",
        "         vendor: Reboot (GPU recovery action)",
        "         more:   runbook show drain",
        "restart  GPU 3: needs restart",
        "         next:   do restart",
        "         more:   runbook show restart",
        "keep     GPU 3: needs keep",
    ]
    assert "findings in 2 of 3 entries, most severe: drain, on cpu in 1.0 s" in text


def test_the_same_of_several_gpus_and_of_several_entries_is_told_once() -> None:
    eight = [node_finding("drain", f"GPU {number}") for number in range(3)]
    both = [acted(*eight, entry="one", number=1), acted(*eight, entry="two", number=2)]
    assert list(as_text(both, "cpu", 1.0))[:4] == [
        "drain    GPU 0, GPU 1, GPU 2: needs drain",
        "         next:   do drain",
        "         more:   runbook show one",
        "         more:   runbook show two",
    ]


def test_every_line_but_a_command_fits_80_columns_and_no_word_of_a_probe_reaches_the_terminal_raw() -> None:
    long = node_finding("drain", "GPU 3\x1b[2J", found="word " * 60, next="step " * 60, vendor="name " * 40)
    quoted = acted(long, entry="a-very-long-name-of-an-entry-that-goes-on")
    blind = a_diagnosis(a_result("d", "timeout", "why " * 60), entry="blind")
    lines = list(
        as_text([quoted, blind, HINT, IDLE], "cpu", 1.0, width=80, verbose=True, gpu_problem="NVML " * 30)
    )
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)


def test_in_a_pipe_no_line_begins_with_the_text_of_a_probe_and_on_a_terminal_no_command_is_broken() -> None:
    command = "`nvidia-smi --gpu-reset -i 3 --with --many --more --words --than --one --line --has`"
    forged = acted(
        node_finding("drain", found="x " * 40 + "::error::forged " * 9, next=f"first run {command} now")
    )
    lines = list(as_text([forged], "cpu", 1.0))
    assert not [line for line in lines if line.lstrip().startswith("::")]
    assert any(command in line for line in as_text([forged], "cpu", 1.0, width=80))


def test_a_missed_bound_is_not_made_a_note_by_the_notes_of_the_probe() -> None:
    missed = acted(node_finding("keep"), status="failed")
    assert (missed.action, missed.severity, missed.state) == (None, Severity.LOW, State.FOUND)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.sampled_from(["reset", "keep", "high"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["action", "severity", "kind", "where", "found", "next", "vendor"]), inner
            )
        ),
    )
)
def test_whatever_a_document_lists_as_findings_is_read(listed: Any) -> None:
    one = a_diagnosis(a_result("d", "symptom", "x", findings=listed))
    assert list(as_text([one], "cpu", 1.0))
    assert json.dumps(as_json([one]))
    assert as_prometheus([one], 1.0, 1.0)
    assert not ends_service([one]) or one.action in {Action.RESET, Action.DRAIN, Action.REPLACE}


def test_nagios_gets_one_line_with_one_bar() -> None:
    line = as_nagios([FOUND, BLIND], 1.5)
    assert line == ("RUNBOOK CRITICAL - found: a / slow link | entries_found=1 steps_blocked=1 time=1.500s")
    assert as_nagios([CLEAR], 1.0).startswith("RUNBOOK OK - no findings in the checks that ran")
    assert as_nagios([DRAIN], 1.0).startswith("RUNBOOK CRITICAL - drain: drain: what the probe says")
    assert as_nagios([RESTART], 1.0).startswith("RUNBOOK WARNING - restart: restart: what the probe says")


def test_prometheus_gets_families_with_help_type_and_plain_samples() -> None:
    text = as_prometheus([FOUND, CLEAR, BLIND, DRAIN], 1.5, 1_700_000_000.0)
    assert 'runbook_diagnose_findings{entry="found",severity="high"} 1\n' in text
    assert 'runbook_diagnose_findings{entry="clear",severity="none"} 0\n' in text
    assert 'runbook_diagnose_blocked{entry="blind"} 1\n' in text
    assert 'runbook_diagnose_actions{entry="found",action="none"} 0\n' in text
    assert 'runbook_diagnose_actions{entry="drain",action="drain"} 1\n' in text
    assert "runbook_diagnose_exit_status 1\n" in text
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?\d+(\.\d+)?')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line), line
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))


def test_json_has_fixes_for_findings_alone() -> None:
    found, clear = as_json([FOUND, CLEAR])
    assert (found["state"], found["severity"], found["fix"]) == ("found", "high", ["runbook show found"])
    assert (clear["state"], clear["severity"], clear["fix"]) == ("clear", None, [])


def test_json_has_the_action_the_vendors_own_and_every_single_finding() -> None:
    drain, note = as_json([DRAIN, NOTE])
    assert (drain["action"], drain["vendor"]) == ("drain", "Reboot (GPU recovery action)")
    (found,) = drain["findings"]
    assert [(one["where"], one["kind"], one["next"]) for one in found["singles"]] == [
        ("GPU 3", "a-drain", "do drain")
    ]
    assert (note["action"], note["findings"], [one["where"] for one in note["notes"]]) == (
        "keep",
        [],
        ["GPU 3"],
    )


def test_among_nodes_with_findings_the_one_with_the_gravest_action_comes_first() -> None:
    def node(number: int, status: int, *actions: str | None) -> NodeDiagnosis:
        return NodeDiagnosis(a_job(number), status, tuple({"action": action} for action in actions))

    rows = [
        node(1, 0),
        node(2, 3),
        node(3, 1, None),
        node(4, 1, "restart", "keep"),
        node(5, 1, None, "drain"),
    ]
    assert [row.job.nodes[0] for row in sorted(rows, key=_urgency)] == [f"gpu[{n}]" for n in (5, 4, 3, 2, 1)]
