"""How the results of `diagnose` are sorted and ranked, and how they are printed for people and for monitoring."""

import re
from typing import Any

import pytest

from runner.cli.diagnosis_formats import as_nagios, as_prometheus, as_text, nagios_status
from runner.entry.model import Phase, Safety, Severity, Step
from runner.record.diagnosis import (
    Diagnosis,
    Obstacle,
    State,
    as_json,
    diagnose_entry,
    diagnosis_status,
    grave,
    rank,
)
from runner.record.model import StepResult, StepStatus
from tests.builders import a_runbook
from tests.evidence_samples import step


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
    ("diagnoses", "status", "nagios", "drains"),
    [
        ([CLEAR, IDLE], 0, 0, False),
        ([HINT], 0, 0, False),
        ([BLIND, CLEAR], 3, 3, False),
        ([IDLE], 3, 3, False),
        ([], 3, 3, False),
        ([MILD, BLIND], 1, 1, False),
        ([FOUND, BLIND], 1, 2, True),
    ],
)
def test_every_exit_status(diagnoses: list[Diagnosis], status: int, nagios: int, drains: bool) -> None:
    assert (diagnosis_status(diagnoses), nagios_status(diagnoses), grave(diagnoses)) == (
        status,
        nagios,
        drains,
    )


def test_a_step_that_unreadable_gpus_blocked_makes_the_node_unknown_and_is_listed_without_verbose() -> None:
    blind = a_diagnosis(a_result("d", "passed"), a_result("w", "skipped", "cannot be read"), blocked=["w"])
    assert diagnosis_status([blind]) == 3
    *_, listed, verdict = as_text([blind], "cpu", 1.0)
    assert listed == "blocked: an-entry/w: cannot be read"
    assert verdict.startswith("unknown: 1 check was blocked, on cpu in 1.0 s")


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
    assert short == [
        "no findings: one (d)",
        "no check ran: idle",
        (
            "7 steps not run by `diagnose` here: 2 load the device, 2 do not apply here, 1 needs GPUs, "
            "1 needs more nodes, 1 changes the host; --verbose lists them"
        ),
        "no findings in the checks that ran, on cpu-example in 2.0 s; read only, nothing loaded or changed",
    ]
    listed = list(as_text([one, IDLE], "cpu-example", 2.0, verbose=True))
    assert [line for line in listed if line not in short][1:] == [
        *(f"   one/{name}: why {name}" for name in STEPS),
        "   idle/d: loads the device",
    ]
    told = as_json([one])[0]["not_looked"]
    assert [(blind["step"], blind["kind"], blind["blocked"]) for blind in told] == [
        (name, kind.value, False) for name, (_, kind) in STEPS.items()
    ]


def test_without_a_check_that_ran_the_node_is_unknown() -> None:
    assert list(as_text([IDLE], "cpu", 1.0))[-1].startswith("unknown: no check could run here, ")


def test_the_text_names_finding_fix_entry_and_hint() -> None:
    cured = a_diagnosis(a_result("d", "symptom", "slow", undo=["unset A"], by_hand=["sed b"]), entry="cured")
    text = "\n".join(as_text(rank([cured, FOUND, HINT, IDLE]), "cpu-example-x86_64-2c", 1.25))
    for line in (
        "1. entry 9, found (high): a | slow link",
        "   more: runbook show found",
        "   fix:  unset A",
        "   fix:  # by hand: sed b",
        "   more: runbook show cured",
        "check entry 2, hint: pid 7 is busy",
    ):
        assert line in text.splitlines()


def test_nagios_gets_one_line_with_one_bar() -> None:
    line = as_nagios([FOUND, BLIND], 1.5)
    assert line == ("RUNBOOK CRITICAL - found: a / slow link | entries_found=1 steps_blocked=1 time=1.500s")
    assert as_nagios([CLEAR], 1.0).startswith("RUNBOOK OK - no findings in the checks that ran")


def test_prometheus_gets_families_with_help_type_and_plain_samples() -> None:
    text = as_prometheus([FOUND, CLEAR, BLIND], 1.5, 1_700_000_000.0)
    assert 'runbook_diagnose_findings{entry="found",severity="high"} 1\n' in text
    assert 'runbook_diagnose_findings{entry="clear",severity="none"} 0\n' in text
    assert 'runbook_diagnose_blocked{entry="blind"} 1\n' in text
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
