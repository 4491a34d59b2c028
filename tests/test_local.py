"""A plan run on this node, with the real bash: what carries from step to step, and how each step is judged."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.entry.model import Phase, Runbook, Step
from runner.entry.plan import Request, make_plan
from runner.hardware.gpus import Visible
from runner.hardware.machine import Machine
from runner.record.documents import LARGEST_DETAILS, MAX_DOCUMENT_BYTES
from runner.record.model import StepResult
from runner.record.redaction.redact import host_secrets, redact_text
from runner.run.local import RunContext, run_plan
from runner.run.pace import Pace, TimeSlot
from tests.builders import a_machine, a_runbook, eight_b200

BASE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
D, R, F, V = Phase.DIAGNOSE, Phase.REPRODUCE, Phase.FIX, Phase.VERIFY
MEASURED = {"name": "bus_bandwidth", "value": 3e10, "unit": "B/s", "statistic": "single"}


def a_step(step_id: str, command: str, phase: Phase = D, **fields: Any) -> Step:
    return Step(id=step_id, phase=phase, command=command, line=1, **fields)


def run(
    folder: Path,
    *steps: Step,
    request: Request | None = None,
    environment: Mapping[str, str] = BASE,
    machine: Machine | None = None,
    pace: Pace | None = None,
) -> dict[str, StepResult]:
    """Run an entry of these steps; its results by step id."""
    here = machine or a_machine()
    entry: Runbook = a_runbook(*steps)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    results = run_plan(
        make_plan(entry, here, request or Request(reproduce=True)),
        RunContext(here, "run-1", folder, environment, scratch),
        lambda _step, _slot: None,
        pace,
    )
    return {result.id: result for result in results}


def printed(results: Mapping[str, StepResult], step_id: str) -> str:
    assert results[step_id].status == "passed", results[step_id]
    return results[step_id].stdout_tail.removesuffix("\n")


def says(document: object) -> str:
    """A command that leaves this as its step's document."""
    text = document if isinstance(document, str) else json.dumps(document)
    return f"cat > $RUNBOOK_RESULT <<'END'\n{text}\nEND\n"


def a_document(**changes: object) -> dict[str, object]:
    return {"probe": "collectives", "method_version": 1, "status": "ok"} | changes


# What carries on, and to whom.


def test_exports_and_unsets_carry_on_within_their_phase(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("sets", "export NEW=1; unset OLD; LOCAL=1"),
        a_step("sees", "echo $NEW ${OLD-gone} ${LOCAL-gone}"),
        environment={**BASE, "OLD": "1"},
    )
    assert printed(results, "sees") == "1 gone gone"


def test_what_a_failed_block_exported_does_not_carry_on(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("sets", "export KEPT=1"),
        a_step("fails", "export KEPT=2 LOST=1; exit 3"),
        a_step("late", "export LOST=1; sleep 1000", timeout=0.3),
        a_step("absent", "export LOST=1; exit 80"),
        a_step("sees", "echo $KEPT ${LOST-gone}"),
    )
    assert [results[name].status for name in ("fails", "late", "absent")] == ["error", "timeout", "skipped"]
    assert printed(results, "sees") == "1 gone"


def test_the_working_directory_does_not_carry_on(tmp_path: Path) -> None:
    results = run(tmp_path, a_step("goes", "cd /"), a_step("sees", "pwd; echo ${OLDPWD-none}"))
    assert printed(results, "sees") == f"{tmp_path}\nnone"


def test_each_phase_starts_from_the_callers_environment(tmp_path: Path) -> None:
    show = "echo ${BY_DIAGNOSE-no} ${BY_REPRODUCE-no} ${BY_FIX-no} ${CALLERS-gone}"
    results = run(
        tmp_path,
        a_step("d", "export BY_DIAGNOSE=1; unset CALLERS"),
        a_step("r-sees", show, R),
        a_step("r", "export BY_REPRODUCE=1; unset CALLERS", R),
        a_step("f-sees", show, F),
        a_step("f", "export BY_FIX=1", F),
        a_step("v-sees", show, V),
        environment={**BASE, "CALLERS": "1"},
    )
    assert printed(results, "r-sees") == "no no no 1"
    assert printed(results, "f-sees") == "no no no 1"
    assert printed(results, "v-sees") == "no no 1 1"


def test_verify_goes_on_from_its_own_exports_once_it_has_some(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("f", "export A=fix B=fix", F),
        a_step("v", "export B=verify", V),
        a_step("v-sees", "echo $A $B", V),
    )
    assert printed(results, "v-sees") == "fix verify"


def test_verify_starts_from_the_callers_environment_where_fix_failed(tmp_path: Path) -> None:
    results = run(tmp_path, a_step("f", "export A=fix; exit 4", F), a_step("v", "echo ${A-none}", V))
    assert printed(results, "v") == "none"


def test_verify_alone_runs_fix_first_and_sees_what_it_exported(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("d", "true"),
        a_step("f", "export A=fix", F),
        a_step("v", "echo $A", V),
        request=Request(phases=(V,)),
    )
    assert list(results) == ["f", "v"]
    assert printed(results, "v") == "fix"


def test_exported_functions_and_values_of_any_shape_carry_on(tmp_path: Path) -> None:
    shapes = "two\nlines; 'single' \"double\" $dollar `tick` = \\ trailing \n"
    (tmp_path / "value").write_text(shapes, encoding="utf-8")
    results = run(
        tmp_path,
        a_step(
            "sets",
            'greet() { echo "hello $1"\n}\nexport -f greet\n'
            "SHAPES=$(cat value; echo x); export SHAPES=\"${SHAPES%x}\" EMPTY= RAW=$'\\xff'",
        ),
        a_step(
            "sees", 'greet you; printf %s "$SHAPES" | cmp - value; echo "[$EMPTY]"; [ $RAW = $\'\\xff\' ]'
        ),
    )
    assert printed(results, "sees") == "hello you\n[]"


def test_an_environment_too_large_to_carry_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("grows", "export SMALL=1 BIG=$(head -c 200000 /dev/zero | tr '\\0' x)"),
        a_step("sees", "echo $PATH ${SMALL-none}"),
    )
    assert results["grows"].status == "error"
    assert "environment" in (results["grows"].reason or "")
    assert printed(results, "sees").endswith(redact_text(f"{BASE['PATH']} none", host_secrets()))


def test_every_step_finds_the_run_its_preset_the_gpus_and_a_place_for_its_result(tmp_path: Path) -> None:
    named = "$RUNBOOK_RUN_ID $RUNBOOK_PRESET $RUNBOOK_GPUS $RUNBOOK_INSTALLED_GPUS"
    show = f'echo {named}; [ -d "$(dirname $RUNBOOK_RESULT)" ]'
    clear = f"{show}; unset RUNBOOK_RUN_ID RUNBOOK_PRESET RUNBOOK_GPUS RUNBOOK_RESULT"
    steps = [a_step(f"{phase.value}-{n}", clear, phase) for phase in Phase for n in (1, 2)]
    results = run(tmp_path, *steps, machine=eight_b200())
    assert {printed(results, step.id) for step in steps} == {"run-1 70b 8 8"}


def test_a_step_is_told_the_gpus_that_it_can_use_and_those_that_are_installed(tmp_path: Path) -> None:
    node = eight_b200()
    one = Visible(gpus=node.gpus[5:6], hidden_by="CUDA_VISIBLE_DEVICES")
    show = a_step("sees", "echo $RUNBOOK_PRESET $RUNBOOK_GPUS $RUNBOOK_INSTALLED_GPUS")
    results = run(tmp_path, show, machine=node, request=Request(visible=one))
    assert printed(results, "sees") == "8b 1 8"


def test_the_programs_of_this_installation_come_first_on_the_path(tmp_path: Path) -> None:
    results = run(
        tmp_path, a_step("sees", "python -c 'import runner; print(1)'"), environment={"PATH": "/bin"}
    )
    assert printed(results, "sees") == "1"


def test_a_step_never_reads_the_result_of_another(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("measures", says(a_document(measurements=[MEASURED])) + "export RUNBOOK_RESULT"),
        a_step("silent", "true"),
        a_step("ahead", 'for n in silent-2 v; do echo broken > "$(dirname $RUNBOOK_RESULT)/$n.json"; done'),
        a_step("silent-2", "true"),
        a_step("v", "true", V),
        environment={**BASE, "RUNBOOK_RESULT": str(tmp_path / "callers.json")},
    )
    assert len(results["measures"].measurements) == 1
    assert {(results[name].status, results[name].probe) for name in ("silent", "silent-2", "v")} == {
        ("passed", None)
    }
    assert not (tmp_path / "callers.json").exists()


def test_a_step_that_removes_the_place_of_results_breaks_no_other(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("removes", 'rm -rf "$(dirname $RUNBOOK_RESULT)" scratch'),
        a_step("measures", says(a_document(measurements=[MEASURED]))),
    )
    assert [result.status for result in results.values()] == ["passed", "passed"]
    assert len(results["measures"].measurements) == 1


def test_a_step_whose_need_did_not_pass_is_skipped_with_a_reason_that_names_it(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("builds", "exit 4"),
        a_step("uses", f"touch {tmp_path}/ran", needs=("builds",)),
        a_step("uses-that", f"touch {tmp_path}/ran", needs=("uses",)),
        a_step("fine", "true"),
        a_step("uses-fine", "true", needs=("fine",)),
    )
    assert (results["uses"].status, results["uses"].reason) == (
        "skipped",
        "needs builds, which ended as error",
    )
    assert results["uses-that"].reason == "needs uses, which ended as skipped"
    assert results["uses-fine"].status == "passed"
    assert not (tmp_path / "ran").exists()


def test_a_step_whose_need_was_not_asked_for_is_skipped(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        a_step("looks", "true"),
        a_step("v", "true", V, needs=("looks",)),
        request=Request(phases=(V,)),
    )
    assert results["v"].reason == "needs looks, which did not run"


# How each step is judged.


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        (says("{not json"), "error", "is not JSON"),
        (says('{"probe": NaN}'), "error", "contains NaN"),
        (says('{"probe": -Infinity}'), "error", "contains -Infinity"),
        (says('{"probe": 1e999}'), "error", "1e999"),
        (says(r'{"probe": "\ud800"}'), "error", "lone surrogate"),
        (says(a_document(measurements=[{**MEASURED, "unit": None}])), "error", "(bus_bandwidth): unit"),
        (
            says(a_document(measurements=[{k: v for k, v in MEASURED.items() if k != "unit"}])),
            "error",
            "(bus_bandwidth) lacks a unit",
        ),
        (says(a_document(measurements=[{**MEASURED, "name": "bus_bandwith"}])), "error", "unknown metric"),
        (says(a_document(probe="telepathy")), "error", "unknown probe"),
        (f"head -c {MAX_DOCUMENT_BYTES + 1} /dev/zero > $RUNBOOK_RESULT", "error", "larger than 4MiB"),
        ("mkfifo $RUNBOOK_RESULT", "error", "not a regular file"),
        ("ln -s /dev/zero $RUNBOOK_RESULT", "error", "not a regular file"),
        ("exit 1", "error", "a crash, not a symptom"),
        (says(a_document()) + "exit 1", "error", "a crash, not a symptom"),
        (says("{half") + "exit 1", "error", "is not JSON"),
        (says(a_document(status="symptom", reason="slow link")) + "exit 1", "symptom", "slow link"),
        (says(a_document(status="symptom", reason="slow link")), "symptom", "slow link"),
        (says(a_document(status="symptom")) + "exit 80", "error", "80 means not applicable"),
        ("exit 80", "skipped", "not applicable"),
        (says(a_document(status="not_applicable", reason="no NVLink")) + "exit 80", "skipped", "no NVLink"),
        (says(a_document(status="not_applicable", reason="no NVLink")), "skipped", "no NVLink"),
        (
            says(a_document(requested={"a": 1}, effective={"a": 2}, fallback_reason="no flash")),
            "failed",
            "unrequested fallback: no flash",
        ),
        (says(a_document(fallback_reason="no flash", fallback_asked=True)), "passed", None),
        ("exit 2", "error", "bad usage"),
        ("exit 3", "error", "exit status 3"),
        ("echo 'probe: no compiler' >&2; exit 3", "error", "exit status 3: probe: no compiler"),
        ("echo note >&2; exit 80", "skipped", "not applicable on this machine: note"),
        (r"printf '10%%\r\033[1mdisk full\033[0m\n\n' >&2; exit 4", "error", "exit status 4: disk full"),
        (r"echo said >&2; printf '\377\376\001\200' >&2; exit 4", "error", "exit status 4: said"),
        (
            "python3 -c 'raise ValueError(3)'",
            "error",
            "exit status 1 without a symptom document is a crash, not a symptom: ValueError: 3",
        ),
        (f"echo 'refused hf_{'a1B2' * 9}' >&2; exit 4", "error", "exit status 4: refused [token]"),
        ("kill -KILL $$", "error", "killed by SIGKILL"),
        ("no-such-program", "error", "no-such-program: command not found"),
        ("sleep 1000", "timeout", "deadline"),
        (says(a_document(status="symptom")) + "sleep 1000", "timeout", "deadline"),
    ],
)
def test_each_way_to_end_has_one_status_and_one_clear_reason(
    command: str, status: str, reason: str | None, tmp_path: Path
) -> None:
    result = run(tmp_path, a_step("look", command, timeout=0.3 if "1000" in command else 60))["look"]
    assert result.status == status, result.reason
    if reason is None:
        assert result.reason is None
    else:
        assert reason in (result.reason or "")
        assert "\n" not in (result.reason or "")
    # Numbers of a step that did not finish are not kept.
    assert (status in {"error", "timeout"}) <= (result.measurements == ())


def test_a_block_that_cannot_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    result = run(tmp_path, a_step("long", ": " + "x" * 200_000))["long"]
    assert result.status == "error"
    assert (result.reason or "").startswith("could not be started: ")


def test_details_that_no_record_should_hold_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    command = f"""python -c 'import json
print(json.dumps({{"probe": "collectives", "method_version": 1, "status": "ok",
                  "details": {{"x": "y" * {LARGEST_DETAILS}}}}}))' > $RUNBOOK_RESULT"""
    result = run(tmp_path, a_step("look", command))["look"]
    assert result.status == "passed"
    assert "left_out" in result.details


def test_a_block_waiting_for_input_gets_none(tmp_path: Path) -> None:
    result = run(tmp_path, a_step("asks", 'read -r -p "sure? " answer || echo "[${answer-}]"', timeout=20))[
        "asks"
    ]
    assert result.stdout_tail == "[]\n"


def test_a_full_temporary_folder_is_an_error_of_the_step_and_not_of_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    result = run(tmp_path, a_step("look", f"touch {tmp_path}/ran"))["look"]
    assert result.status == "error"
    assert "No space left on device" in (result.reason or "")
    assert not (tmp_path / "ran").exists()


# How long a step has, and what it is told of that.


class Paced:
    """A pace that gives every step the same slot, and keeps what it is told."""

    def __init__(self, slot: TimeSlot) -> None:
        self._slot = slot
        self.told: list[tuple[str, str]] = []

    def slot(self, step: Step) -> TimeSlot:
        assert step.id
        return self._slot

    def ended(self, result: StepResult) -> None:
        self.told.append((result.id, result.status))


def test_a_step_finds_the_seconds_that_it_has(tmp_path: Path) -> None:
    shows = "echo $RUNBOOK_SECONDS"
    steps = (
        a_step("own", shows, timeout=60),
        a_step("other", f"export RUNBOOK_SECONDS=1; {shows}", timeout=90),
    )
    results = run(tmp_path / "own", *steps, a_step("after", shows, timeout=70))
    assert [printed(results, name) for name in results] == ["60", "1", "70"]
    results = run(tmp_path / "less", *steps, pace=Paced(TimeSlot(12.5, 3)))
    assert printed(results, "own") == "12.5"


def test_a_step_cut_by_the_time_left_says_so_and_is_no_finished_one(tmp_path: Path) -> None:
    cut = run(
        tmp_path / "cut", a_step("long", "sleep 1000"), pace=Paced(TimeSlot(0.2, 0.1, cut="the time was up"))
    )
    own = run(tmp_path / "own", a_step("long", "sleep 1000", timeout=0.2))
    assert (cut["long"].status, cut["long"].reason) == ("timeout", "the time was up")
    assert cut["long"].left_out
    assert (own["long"].status, own["long"].reason) == (
        "timeout",
        "still running at its deadline, terminated",
    )


def test_a_step_left_out_is_skipped_with_the_reason_and_so_is_what_needs_it(tmp_path: Path) -> None:
    pace = Paced(TimeSlot(0.0, 40, left_out="left out: about 40 s expected"))
    results = run(
        tmp_path,
        a_step("a", "touch ran"),
        a_step("b", "touch ran", needs=("a",)),
        a_step("gpu", "true", gpus=8),
        pace=pace,
    )
    assert {name: (result.status, result.left_out) for name, result in results.items()} == {
        "a": ("skipped", True),
        "b": ("skipped", True),
        "gpu": ("skipped", False),
    }
    assert results["a"].reason == "left out: about 40 s expected"
    assert results["b"].reason == "needs a, which ended as skipped"
    assert not (tmp_path / "ran").exists()
    assert pace.told == [("a", "skipped"), ("b", "skipped"), ("gpu", "skipped")]


def test_what_a_step_says_is_redacted_before_its_result_is_handed_out(tmp_path: Path) -> None:
    token = "hf_" + "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"
    leak = f"\x1b[1m{token}\x1b[0m at 10.21.32.43"
    (tmp_path / "leak").write_text(leak, encoding="utf-8")
    (tmp_path / "document").write_text(
        json.dumps(
            {
                "probe": "nccl_env",
                "method_version": 2,
                "status": "symptom",
                "reason": leak,
                "details": {leak: leak},
                "requested": {"a": leak},
                "effective": {"a": [leak]},
            }
        ),
        encoding="utf-8",
    )
    says = f"cat {tmp_path}/leak; cat {tmp_path}/leak >&2"
    found = run(
        tmp_path,
        a_step("breaks", f"{says}; exit 9"),
        a_step("finds", f'{says}; cat {tmp_path}/document > "$RUNBOOK_RESULT"; exit 1'),
        a_step("never", f"true # {leak}", needs=("breaks",)),
    )
    assert (found["breaks"].reason or "").endswith("[token] at [ip]")
    assert found["finds"].reason == "[token] at [ip]"
    for result in found.values():
        text = result.model_dump_json()
        assert token not in text
        assert "10.21.32.43" not in text
        assert "u001b" not in text
