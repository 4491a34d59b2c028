"""What has to be typed or copied is never shortened or folded: on 80 columns, on a phone's 60, on 40, and in a pipe."""

import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from runner.cli.summary import Ended, print_summary
from runner.entry.model import Phase
from runner.entry.plan import Plan, PlannedStep
from runner.history.endings import outcome_words
from runner.record.model import Options, Outcome, StepStatus
from tests.builders import a_machine
from tests.evidence_samples import record, runbook
from tests.evidence_samples import step as a_result
from tests.test_cli import ROOT, command, step, write_entry
from tests.test_cli import runbook as in_a_pipe
from tests.test_progress import a_step

LONG_ID = "throughput-drops-after-rollback"
LONG_STEP = "measured-without-any-leftover"
LONG_COMMAND = f"true {' '.join(f'--option-number-{number}' for number in range(12))} > /dev/null"
NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
COLUMNS = (80, 60, 40)


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """Two entries, one with a long id, a long step id and a long command."""
    folder = tmp_path / "runbooks"
    write_entry(folder, step(LONG_STEP, LONG_COMMAND, "timeout=40"), entry_id=LONG_ID, number=12)
    write_entry(folder, step("look", "true", "timeout=20"), step("big", "true", "gpus=8 safety=loads-device"))
    for path, old, new in (
        (
            folder / "small.md",
            "A small entry",
            "A small entry with a title of which a narrow terminal folds the end",
        ),
        (
            folder / f"{LONG_ID}.md",
            "It is slow.",
            "It is <https://example.org/slow>, or [a link](https://example.org/x).",
        ),
        (
            folder / f"{LONG_ID}.md",
            "\n---\n\n## Symptom",
            f"""
signatures:
  - {{pattern: "NCCL WARN timeout", means: a peer did not answer}}
expectations:
  - id: floor
    metric: {LONG_STEP}.bus_bandwidth
    at: {{op: all_reduce}}
    min: 600
    unit: GB/s
    on: {{gpu: B200, count: 8}}
    evidence: chosen
    source: a test
---

## Symptom""",
        ),
    ):
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")
    log = tmp_path / "a.log"
    log.write_text("NCCL WARN timeout\n", encoding="utf-8")
    return tmp_path


def on_a_terminal(tmp_path: Path, columns: int, *words: str) -> list[str]:
    """The lines that a terminal of this width is given."""
    ours, theirs = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    with subprocess.Popen(
        command(tmp_path, *words), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:
            # The other end is closed.
            pass
        process.wait()
    os.close(ours)
    return [line.rstrip() for line in NOT_TEXT.sub("", shown.decode()).split("\n")]


@pytest.mark.parametrize("columns", COLUMNS)
def test_list_shows_every_id_whole_and_no_line_is_wider_than_the_terminal(
    entries: Path, columns: int
) -> None:
    lines = on_a_terminal(entries, columns, "list")
    assert [line.split()[:2] for line in lines if re.match(r"\s*\d+\. ", line)] == [
        ["1.", "small"],
        ["12.", LONG_ID],
    ]
    assert max(map(len, lines[1:])) <= columns
    assert "A small entry with a title of which a narrow terminal folds the end" in " ".join(
        " ".join(lines).split()
    )


def test_list_prints_one_line_for_each_entry_in_a_pipe(entries: Path) -> None:
    _, *lines = in_a_pipe(entries, "list").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["small", LONG_ID]
    assert lines[0].endswith(
        "unmeasured  A small entry with a title of which a narrow terminal folds the end"
    )


@pytest.mark.parametrize("columns", COLUMNS)
def test_plan_shows_every_step_id_whole(entries: Path, columns: int) -> None:
    lines = on_a_terminal(entries, columns, "plan", "small", LONG_ID)
    ids = [words[1] for line in lines if (words := line.split())[:1] == ["diagnose"]]
    assert ids == ["look", LONG_STEP]
    assert "skipped: needs 8 GPUs, this host has none" in " ".join(" ".join(lines).split())


def test_plan_takes_several_entries_and_gives_their_maximum_runtime_together(entries: Path) -> None:
    lines = in_a_pipe(entries, "plan", "small", "12").stdout.splitlines()
    assert f"  diagnose  {LONG_STEP}  runs: expected 4 s, at most 40 s" in lines
    assert lines[-1] == "Maximum runtime: 60 s (the sum of the deadlines)"
    limited = in_a_pipe(entries, "plan", "small", "12", "--within", "8s").stdout
    assert "left out: no record, assumed 4 s" in limited
    assert limited.endswith("Maximum runtime: 8 s (--within)\n")


@pytest.mark.parametrize("columns", COLUMNS)
def test_show_folds_no_command_and_prints_a_bare_link_once(entries: Path, columns: int) -> None:
    lines = on_a_terminal(entries, columns, "show", LONG_ID)
    assert LONG_COMMAND in lines
    text = " ".join(" ".join(lines).split())
    assert text.count("https://example.org/slow") == 1
    assert "a link (https://example.org/x)" in text
    # The identifier is shown beside the name of the metric.
    assert "Bus bandwidth" in text
    assert f"{LONG_STEP}.bus_bandwidth" in text.replace(" ", "")
    assert "at least 600 GB/s on 8 × B200; chosen" in text


def test_show_begins_with_the_symptom_and_what_to_do_by_hand(entries: Path) -> None:
    lines = on_a_terminal(entries, 80, "show", LONG_ID)
    order = [
        line for line in lines if line in {"Symptom", "By hand", "Root cause", "Diagnose", "Fix", "Bounds"}
    ]
    assert order == ["Symptom", "By hand", "Root cause", "Diagnose", "Fix", "Bounds"]


@pytest.mark.parametrize("columns", COLUMNS)
def test_match_prints_the_next_command_whole(entries: Path, columns: int) -> None:
    lines = on_a_terminal(entries, columns, "match", str(entries / "a.log"))
    assert any(line.startswith(f"Next: runbook show {LONG_ID} ") for line in lines)
    assert "   line 1: NCCL WARN timeout" in lines


def test_diagnose_prints_the_command_of_a_step_that_it_does_not_run_whole(entries: Path) -> None:
    write_entry(entries / "runbooks", step("load", "true", "safety=loads-device"), entry_id="third", number=3)
    lines = on_a_terminal(entries, 40, "diagnose", "--verbose")
    assert any("`runbook run third --step load`" in line for line in lines)


@pytest.mark.parametrize("columns", COLUMNS)
def test_the_end_of_a_run_shows_the_id_whole_and_the_steps_that_healthy_is_limited_to(columns: int) -> None:
    out = io.StringIO()
    entry = runbook()
    head = entry.head.model_copy(update={"id": LONG_ID})
    plan = Plan(
        entry.model_copy(update={"head": head}), "tiny", (PlannedStep(a_step("a"), None),), tuple(Phase), 0
    )
    options = Options(preset="tiny", phases=tuple(Phase), steps=("wiring",))
    ref = {"id": LONG_ID, "number": 1, "title": "t"}
    ended = Ended(plan, record(a_result("wiring"), outcome=Outcome.HEALTHY, runbook=ref, options=options))
    print_summary(Console(file=out, width=columns), [ended], a_machine(), 2.0)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert any(line.startswith(f"  {LONG_ID}") for line in lines)
    assert max(map(len, lines[2:])) <= columns
    assert "healthy in step wiring only" in out.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "healthy"),
        ({"steps": ("a",)}, "healthy in step a only"),
        ({"steps": ("a", "b"), "phases": (Phase.DIAGNOSE,)}, "healthy in steps a, b only"),
        ({"steps": ("a", "skipped")}, "healthy in step a only"),
        ({"phases": (Phase.DIAGNOSE,)}, "healthy in diagnose only"),
        ({"slow": False}, "healthy without slow steps"),
    ],
)
def test_healthy_names_what_it_is_limited_to(changes: dict[str, object], words: str) -> None:
    options = Options(preset="tiny", phases=tuple(Phase)).model_copy(update=changes)
    steps = (a_result("a"), a_result("b"), a_result("skipped", status=StepStatus.SKIPPED))
    ran = record(*steps, options=options)
    assert outcome_words(Outcome.HEALTHY, ran) == words
    assert outcome_words(Outcome.SYMPTOM, ran) == "symptom"
