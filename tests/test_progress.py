"""What a run shows of the step at work: in a log, on a narrow terminal, and when it is interrupted."""

import io
import re
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from runner.cli.progress import RunProgress
from runner.cli.summary import Ended, left_out_lines, look_at, print_summary
from runner.entry.model import Evidence, Phase, Step
from runner.entry.plan import Plan, Request, make_plan
from runner.record.model import Outcome, StepResult, StepStatus, StoredVerdict, Verdict
from runner.run.command import run_block
from runner.run.pace import TimeSlot
from tests.builders import a_machine, a_runbook
from tests.evidence_samples import record, step

WARM = Step(id="warm", phase=Phase.VERIFY, command="true", line=1, timeout=60)
PLAN = make_plan(a_runbook(WARM), a_machine(), Request())


def in_a_log(*seconds: float, slot: TimeSlot | None = None) -> list[str]:
    """The lines of a log after its heading, with the step still running at these times."""
    out = io.StringIO()
    with RunProgress(Console(file=out, width=80), PLAN, "cpu") as progress:
        progress.step_begins(WARM, slot or TimeSlot(60, 25, measured=True))
        for moment in seconds:
            progress.still_running(moment)
    return out.getvalue().splitlines()[1:]


def test_a_log_names_the_step_when_it_begins_and_what_it_may_take() -> None:
    assert in_a_log() == ["  verify/warm: running, expected 25 s, at most 60 s"]


def test_a_log_does_not_state_a_guess() -> None:
    assert in_a_log(slot=TimeSlot(90, 9)) == ["  verify/warm: running, at most 90 s"]


def test_a_log_says_each_half_minute_that_the_step_still_runs() -> None:
    said = in_a_log(1, 29.9, 30.2, 31, 59, 60.4, 61, 185, 209, 210)[1:]
    assert said == [
        f"  verify/warm: still running, {when}" for when in ("30 s", "60 s", "3 min", "3 min 30 s")
    ]


def test_a_terminal_of_80_columns_shows_the_step_its_time_and_what_is_expected_in_one_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    long = WARM.model_copy(update={"id": "w" * 90})
    with RunProgress(console, PLAN, "cpu") as progress:
        progress.step_begins(WARM, TimeSlot(60, 25, measured=True))
        progress.still_running(12.4)
        progress._bar.refresh()
        shown = out.getvalue()
        progress.step_begins(long, TimeSlot(60, 25, measured=True))
        progress._bar.refresh()
    assert "verify/warm: 12 s, expected 25 s, at most 60 s" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert max(len(line) for part in plain.splitlines() for line in part.split("\r")) <= 80


def test_the_terminal_is_as_it_was_after_an_interruption() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)

    def interrupted() -> None:
        with RunProgress(console, PLAN, "cpu") as progress:
            progress.step_begins(WARM, TimeSlot(60, 25))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")


def test_a_running_block_is_told_of_by_the_thread_that_waits_for_it(tmp_path: Path) -> None:
    told: list[float] = []

    def tell(seconds: float) -> None:
        told.append(seconds)
        (tmp_path / "told").touch()

    # The block ends because it was told of; it would end at its deadline otherwise.
    wait = partial(run_block, still_running=tell)
    ran = wait(
        f"until [ -e {tmp_path}/told ]; do sleep 0.05; done",
        environment={"PATH": "/usr/bin:/bin"},
        timeout=100,
        cwd=tmp_path,
    )
    assert ran.ending == "exited"
    assert told == sorted(told)
    assert told[0] >= 1


# The end of a run.


def ended(*planned: tuple[Step, str | None], outcome: Outcome = Outcome.SYMPTOM) -> Ended:
    """An entry whose steps were skipped for these reasons; by the plan those that need GPUs, else for want of time."""
    steps = tuple(wanted for wanted, _ in planned)
    results = [
        step(
            wanted.id,
            phase=wanted.phase,
            status=StepStatus.SKIPPED if reason else StepStatus.PASSED,
            reason=reason,
            left_out=bool(reason and reason.startswith("left out")),
        )
        for wanted, reason in planned
    ]
    plan: Plan = make_plan(a_runbook(*steps), a_machine(), Request())
    within = record().options.model_copy(update={"within": 300.0})
    return Ended(plan, record(*results, outcome=outcome, options=within))


def a_step(step_id: str, gpus: int = 0) -> Step:
    return Step(id=step_id, phase=Phase.DIAGNOSE, command="true", line=1, gpus=gpus)


def test_what_was_left_out_is_one_line_a_reason_and_not_one_a_step() -> None:
    entries = [
        ended(
            (a_step("a", 2), "needs 2 GPUs, this host has none"),
            (a_step("b", 8), "needs 8 GPUs, this host has none"),
            (a_step("c"), "left out: expected 40 s, 25 s left of 5 min"),
            (a_step("d"), None),
        ),
        ended(
            (a_step("e", 1), "needs 1 GPU, this host has none"),
            (a_step("f"), "left out: expected 70 s, 5 s left of 5 min"),
            (a_step("g"), "needs a C++ compiler; apt-get install g++"),
        ),
    ]
    assert left_out_lines(entries, a_machine()) == [
        "3 steps: 1, 2 or 8 GPUs needed, this host has none",
        "2 steps: did not fit into 5 min; a longer --within, or none, includes them",
        "1 step: needs a C++ compiler; apt-get install g++",
    ]


def test_a_summary_fits_a_screen_of_80_columns_and_names_what_broke() -> None:
    out = io.StringIO()
    entries = [ended((a_step("a"), None)) for _ in range(5)]
    broken = step("late", status=StepStatus.TIMEOUT, reason="still running at its deadline, terminated")
    entries.append(Ended(entries[0].plan, record(broken, outcome=Outcome.INCOMPLETE)))
    print_summary(Console(file=out, width=80), entries, a_machine(), 252.0)
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert "4 min 12 s" in out.getvalue()
    assert max(len(line) for line in lines) <= 80
    assert "  nvlink diagnose/late: timeout, still running at its deadline, terminated" in lines


def test_a_summary_says_why_an_entry_did_not_end_well_and_nothing_of_one_that_did() -> None:
    found = (
        step("a", status=StepStatus.SYMPTOM, reason="the link is slow"),
        step("r", phase=Phase.REPRODUCE, status=StepStatus.SYMPTOM, reason="injected"),
        step("v", phase=Phase.VERIFY, status=StepStatus.FAILED, reason="expectation x missed"),
    )
    plan = ended((a_step("a"), None)).plan
    assert list(look_at(Ended(plan, record(*found, outcome=Outcome.FIX_PROVED)))) == []
    assert list(look_at(Ended(plan, record(*found, outcome=Outcome.NOT_FIXED)))) == [
        "nvlink diagnose/a: symptom, the link is slow",
        "nvlink verify/v: failed, expectation x missed",
    ]


def test_a_summary_says_for_want_of_which_steps_a_fix_was_not_proved() -> None:
    def late(step_id: str, phase: Phase) -> StepResult:
        return step(step_id, phase=phase, status=StepStatus.SKIPPED, left_out=True)

    steps = (
        step("r", phase=Phase.REPRODUCE, status=StepStatus.SYMPTOM),
        late("d", Phase.DIAGNOSE),
        late("v", Phase.VERIFY),
        late("w", Phase.VERIFY),
    )
    assert list(look_at(Ended(PLAN, record(*steps, outcome=Outcome.SYMPTOM)))) == [
        "nvlink: symptom, because verify/v, verify/w were left out"
    ]
    assert list(look_at(Ended(PLAN, record(*steps[1:2], outcome=Outcome.INCONCLUSIVE)))) == [
        "nvlink: inconclusive, because diagnose/d was left out"
    ]


def test_a_summary_names_the_bound_that_the_spread_covers() -> None:
    verdict = StoredVerdict(
        id="floor",
        verdict=Verdict.INCONCLUSIVE,
        value=1.0,
        unit="1",
        evidence=Evidence.CHOSEN,
        decides=True,
        note="the interval covers the bound",
    )
    one = Ended(PLAN, record(step(), verdicts=(verdict,), outcome=Outcome.INCONCLUSIVE))
    assert list(look_at(one)) == ["nvlink floor: inconclusive, the interval covers the bound"]
