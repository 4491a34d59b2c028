"""The topic `nonfinite` of `step_drill`: each fault is named, the numbers behind the entry's claims, healthy steps."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from runner.base.errors import InputError
from runner.guards.nonfinite import NonFiniteGuard
from runner.kit.probe import OK, SYMPTOM
from runner.kit.steps.nonfinite.declared import FAULTS
from runner.probes.step_drill import PROBE, TOPICS

_TOPIC = "nonfinite"


def drill(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = PROBE.main(["--topic", _TOPIC, *arguments])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def values(document: Mapping[str, Any], name: str) -> dict[str, float]:
    """The values of a metric by its labels but the fault."""
    return {
        " ".join(str(value) for label, value in one["labels"].items() if label != "fault"): one["value"]
        for one in document["measurements"]
        if one["name"] == name
    }


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "survived"])
def test_each_fault_is_named_and_its_step_leaves_no_trace(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = drill(capsys, "--fault", fault, "--repeat", "3", "--seed", "5")
    assert status == SYMPTOM
    assert values(document, "module_named") == {"": 3}, document["details"]
    assert not any(values(document, "changed_by_skip").values())
    assert values(document, "nonfinite_findings") == {"": 3}


def test_a_job_that_meets_three_faults_goes_on_with_finite_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, document = drill(capsys, "--fault", "survived", "--repeat", "2", "--steps", "12")
    assert status == OK, document["reason"]
    assert values(document, "module_named") == {"": 2}
    assert values(document, "nonfinite_findings") == {"": 6}
    assert values(document, "changed_by_skip") == {"": 0}
    assert values(document, "poisoned_weights") == {"skipped": 0}
    assert values(document, "poisoned_saves") == {"census": 0}


def test_a_guard_that_sees_nothing_fails_the_job_of_three_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NonFiniteGuard, "check", lambda *_: None)
    status, document = drill(capsys, "--fault", "survived", "--steps", "8")
    assert status == SYMPTOM
    assert values(document, "module_named") == {"": 0}
    assert next(iter(values(document, "poisoned_weights").values())) > 0


def test_clipping_lets_a_nan_into_every_weight_and_an_infinity_into_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, document = drill(capsys, "--fault", "nan-gradient")
    [every] = values(document, "poisoned_weights").values()
    assert every > 1
    _, document = drill(capsys, "--fault", "inf-gradient")
    assert values(document, "poisoned_weights") == {"clipped": 1}


def test_a_grown_weight_overflows_in_fp16_and_gives_a_finite_loss_that_is_no_health_in_bf16(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, document = drill(capsys, "--fault", "overflow")
    assert values(document, "finite_loss") == {"float16": 0, "bfloat16": 1}
    assert values(document, "loss_growth")["bfloat16"] > 1000


def test_a_masked_row_is_nan_by_hand_and_not_with_sdpa(capsys: pytest.CaptureFixture[str]) -> None:
    _, document = drill(capsys, "--fault", "masked-row")
    rows = values(document, "nonfinite_rows")
    assert rows["sdpa"] == 0
    assert rows["softmax"] > 0


def test_a_loop_without_the_census_writes_a_poisoned_checkpoint_without_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, document = drill(capsys, "--fault", "poisoned-save")
    assert values(document, "poisoned_saves") == {"plain": 1, "census": 0}


def test_healthy_steps_with_masks_autocast_and_evaluations_have_no_finding(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, document = drill(capsys, "--fault", "none", "--steps", "30")
    assert status == OK, document["reason"]
    assert values(document, "nonfinite_findings") == {"": 0}
    assert values(document, "guarded_steps") == {"": 30}


@pytest.mark.system
def test_a_thousand_healthy_steps_have_no_finding(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = drill(capsys, "--fault", "none", "--steps", "1000")
    assert status == OK, document["reason"]
    assert values(document, "guarded_steps") == {"": 1000}


@pytest.mark.system
def test_the_cost_is_a_ratio_of_two_steps_whatever_it_is_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_SECONDS", "20")
    status, document = drill(capsys, "--cost")
    assert status in {OK, SYMPTOM}
    [ratio] = values(document, "guard_cost").values()
    assert ratio > 0
    [step] = values(document, "bare_step_time").values()
    assert step > 0


@pytest.mark.parametrize(
    "words",
    [
        ["--fault", "survived", "--steps", "4"],
        ["--steps", "0"],
        ["--repeat", "-1"],
        ["--seed", "99999999999999999999"],
    ],
)
def test_bad_numbers_are_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert PROBE.main(["--topic", _TOPIC, *words]) == InputError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_topic_has_a_fault_of_another() -> None:
    words = [fault for topic in TOPICS for fault in topic.faults]
    assert len(words) == len(set(words))
