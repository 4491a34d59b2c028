"""`step_drill --topic recompiles`: each cause is found and named, and the sound form of each leaves nothing to find."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.kit.steps.recompiles.declared import RECOMPILES
from runner.probes.step_drill import PROBE

pytest.importorskip("torch")
pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]
SYMPTOM, BAD_INPUT, NOT_APPLICABLE = 1, 2, 80
AFTER_LIMIT = "after-limit"
INJECTED = [fault for fault in RECOMPILES.faults if fault != AFTER_LIMIT]


def drill(*words: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.step_drill", "--topic", "recompiles", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def numbers(document: dict[str, Any], cause: str) -> dict[str, float]:
    return {one["name"]: one["value"] for one in document["measurements"] if one["labels"]["cause"] == cause}


@pytest.mark.parametrize("fault", INJECTED)
def test_each_cause_is_found_and_named_wherever_it_comes(fault: str) -> None:
    status, document, said = drill("--fault", fault, "--steps", "14", "--repeat", "6")
    assert status == SYMPTOM, said
    found = numbers(document, fault)
    assert found["cause_named"] == 1
    assert found["compiles_after_warm_up"] >= 1


def test_fourteen_sizes_with_static_shapes_give_eight_graphs_and_then_none() -> None:
    _, document, _ = drill("--fault", "static-shapes", "--steps", "14")
    found = numbers(document, "static-shapes")
    assert (found["compiled_graphs"], found["frames_given_up"]) == (8, 1)


def test_a_raised_limit_moves_the_storm_and_ends_nothing() -> None:
    _, document, _ = drill("--fault", "raised-limit", "--steps", "30")
    found = numbers(document, "raised-limit")
    assert (found["compiled_graphs"], found["frames_given_up"]) == (30, 0)


def test_a_thousand_steps_of_every_sound_form_leave_nothing_to_find() -> None:
    status, document, said = drill("--fault", "none", "--steps", "1000")
    assert status == 0, said
    for cause in ("static-shapes", "int-attribute", "data-dependent-branch", "late-no-grad", "late-dtype"):
        found = numbers(document, cause)
        assert found["compiles_after_warm_up"] == found["frames_given_up"] == found["graph_breaks"] == 0
    assert numbers(document, "static-shapes")["compiled_graphs"] == 1
    assert numbers(document, "default-shapes")["compiled_graphs"] == 2
    assert numbers(document, "float-argument")["compiled_graphs"] == 2


def test_where_compiling_is_switched_off_nothing_is_claimed() -> None:
    status, document, _ = drill("--fault", "none", TORCHDYNAMO_DISABLE="1")
    assert status == NOT_APPLICABLE
    assert document["reason"].startswith("torch.compile compiled nothing")


def test_too_few_steps_and_a_fault_of_another_topic_are_refused_in_one_line() -> None:
    status, _, said = drill("--fault", "none", "--steps", "4")
    assert (status, len(said.splitlines())) == (BAD_INPUT, 1)
    assert "--steps must be above 4" in said


def test_only_the_drill_that_times_inductor_needs_a_compiler() -> None:
    assert PROBE.compiles is not None
    for gpu in (False, True):
        assert PROBE.compiles.by(["--topic", "recompiles", "--fault", AFTER_LIMIT], gpu=gpu)
        assert not PROBE.compiles.by(["--topic", "recompiles", "--fault", "int-attribute"], gpu=gpu)
        assert not PROBE.compiles.by(["--topic", "recompiles", "--cost"], gpu=gpu)


def test_after_the_limit_inductor_is_compared_or_the_reason_is_given(tmp_path: Path) -> None:
    status, document, said = drill("--fault", AFTER_LIMIT, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    if status == NOT_APPLICABLE:
        assert document["reason"]
        return
    assert status == SYMPTOM, said
    assert numbers(document, AFTER_LIMIT)["limited_over_compiled"] > 0


def test_without_a_compiler_the_time_after_the_limit_is_not_applicable(tmp_path: Path) -> None:
    status, document, _ = drill("--fault", AFTER_LIMIT, CXX=str(tmp_path / "none"), CC=str(tmp_path / "none"))
    assert status == NOT_APPLICABLE
    assert "compiler" in document["reason"]


def test_the_cost_of_the_counter_is_measured_without_a_compile_in_between() -> None:
    status, document, said = drill("--cost", RUNBOOK_SECONDS="20")
    assert status in (0, SYMPTOM), said
    assert {one["name"] for one in document["measurements"]} == {"guard_cost", "bare_step_time"}
