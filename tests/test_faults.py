"""Everything that may go wrong around a run, with the real program: one clear line, the right exit status, a record."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.record.documents import MAX_DOCUMENT_BYTES
from runner.record.model import Record
from runner.run.output import HEAD_BYTES, TAIL_BYTES
from tests.cluster import until as eventually
from tests.test_cli import ROOT, command, records, runbook, step, write_entry
from tests.test_command import DAEMON, alive

GOOD: dict[str, Any] = {"probe": "collectives", "method_version": 1, "status": "ok"}
SYMPTOM = GOOD | {"status": "symptom", "reason": "the link is slow"}
MEASURED = {"name": "bus_bandwidth", "value": 3e10, "unit": "B/s", "statistic": "single"}
ENTRY = """\
---
id: small
number: 1
title: A small entry
proof: {proof}
---

## Symptom

It is slow.

## By hand

```bash
true
```

## Root cause

Nobody knows.

## Diagnose

{diagnose}

## Fix

{fix}

## Reproduce

{reproduce}

## Verify

{verify}
"""


def entry(tmp_path: Path, **phases: str) -> None:
    folder = tmp_path / "runbooks"
    folder.mkdir(exist_ok=True)
    proof = "[v]" if "#v " in phases.get("verify", "") else "[]"
    text = ENTRY.format_map(
        {"diagnose": "", "reproduce": "", "fix": "", "verify": "", "proof": proof} | phases
    )
    (folder / "small.md").write_text(text, encoding="utf-8")


def says(document: object, exit_status: int = 0) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return f"cat > $RUNBOOK_RESULT <<'END'\n{text}\nEND\nexit {exit_status}"


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A word that only this test's processes carry; whatever of them outlives the test is ended."""
    word = f"RUNBOOK_TEST_MARK-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    for pid in alive(word):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def started(tmp_path: Path, *words: str, prefix: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[str]"]:
    """The program in the foreground group of a session of its own, as under a terminal."""
    with subprocess.Popen(
        [*prefix, *command(tmp_path, *words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# What a run says about its node, and what the program ends with.

PHASES = {
    "healthy": ({"diagnose": step("d", "true"), "verify": step("v", "true")}, [], 0),
    "fix_proved": (
        {
            "reproduce": step("r", says(SYMPTOM, 1)),
            "fix": step("f", "export A=1"),
            "verify": step("v", "[ $A = 1 ]"),
        },
        ["--reproduce"],
        0,
    ),
    "drill_passed": (
        {
            "reproduce": step("r", says(SYMPTOM, 1)),
            "fix": step("f", "export A=1"),
            "verify": step("w", "[ $A = 1 ]") + "\n\n" + step("v", "true", "gpus=512"),
        },
        ["--reproduce"],
        0,
    ),
    "symptom": ({"diagnose": step("d", says(SYMPTOM, 1))}, [], 1),
    "not_fixed": ({"diagnose": step("d", says(SYMPTOM)), "verify": step("v", says(SYMPTOM, 1))}, [], 1),
    "not_reproduced": ({"reproduce": step("r", "true"), "verify": step("v", "true")}, ["--reproduce"], 1),
    "incomplete": ({"diagnose": step("d", "sleep 1000", "timeout=0.2")}, [], 3),
    "not_applicable": ({"diagnose": step("d", "exit 80"), "verify": step("v", "true", "gpus=512")}, [], 3),
    "inconclusive": ({"fix": step("f", "true")}, [], 3),
}


@pytest.mark.parametrize("outcome", PHASES)
def test_each_outcome_has_its_exit_status_and_json_alone_on_standard_output(
    outcome: str, tmp_path: Path
) -> None:
    phases, words, status = PHASES[outcome]
    entry(tmp_path, **phases)
    done = runbook(tmp_path, "run", "small", "--json", *words)
    assert done.returncode == status, done.stderr
    (printed,) = json.loads(done.stdout)
    (record,) = records(tmp_path)
    assert printed["outcome"] == record.outcome == outcome
    assert f"small {outcome.replace('_', ' ')}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_drill_that_passed_says_what_was_not_measured_and_keeps_it_in_the_record(tmp_path: Path) -> None:
    phases, words, _ = PHASES["drill_passed"]
    entry(tmp_path, **phases)
    done = runbook(tmp_path, "run", "small", *words)
    (record,) = records(tmp_path)
    (reason,) = record.unproved
    assert re.fullmatch(r"verify/v: needs 512 GPUs, this host has \w+", reason)
    why = f"the fault was found and undone; its effect was not measured ({reason})"
    assert f"drill passed: {why}" in done.stdout
    _, _, table = done.stdout.partition("Results on ")
    assert "drill passed" in table
    assert f"small: {why}" in table


@pytest.mark.parametrize("held", ["fix_proved", "drill_passed"])
def test_a_fix_that_was_needed_is_printed_to_apply_whether_its_effect_was_measured_or_not(
    tmp_path: Path, held: str
) -> None:
    more = "" if held == "fix_proved" else "gpus=512"
    verify = step("w", "true") + "\n\n" + step("v", "true", more)
    entry(tmp_path, diagnose=step("d", says(SYMPTOM, 1)), fix=step("f", "export A=1"), verify=verify)
    done = runbook(tmp_path, "run", "small")
    assert f"small: {held.replace('_', ' ')}" in done.stdout
    assert "To make it permanent, run:\nexport A=1\n" in done.stdout


def test_a_fix_that_was_needed_and_held_is_printed_to_apply_for_good(tmp_path: Path) -> None:
    entry(
        tmp_path,
        diagnose=step("d", says(SYMPTOM, 1)),
        fix=step("f", "export SPEED='[bold]full[/bold]'\ntrue") + "\n\n" + step("g", "exit 80"),
        verify=step("v", "[ \"$SPEED\" = '[bold]full[/bold]' ]"),
    )
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 0, done.stderr
    assert "small: fix proved" in done.stdout
    _, _, after = done.stdout.partition("To make it permanent, run:\n")
    assert after.startswith("export SPEED='[bold]full[/bold]'\ntrue\n")
    assert "exit 80" not in after


def test_a_fix_of_a_fault_that_was_only_injected_is_not_printed_to_apply(tmp_path: Path) -> None:
    phases, words, _ = PHASES["fix_proved"]
    entry(tmp_path, **phases)
    assert "To make it permanent" not in runbook(tmp_path, "run", "small", *words).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["run", "nothing-like-it"],
        ["run", "small", "--step", "nowhere"],
        ["run", "small", "--phase", "lunch"],
        ["run", "small", "--allow", "everything"],
        ["run"],
    ],
)
def test_bad_input_ends_with_2_and_runs_nothing(words: list[str], tmp_path: Path) -> None:
    entry(tmp_path, diagnose=step("d", f"touch {tmp_path}/ran"))
    done = runbook(tmp_path, *words, *(["--json"] if len(words) > 1 else []))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "data").exists()


def test_one_bad_name_among_several_entries_runs_none_of_them(tmp_path: Path) -> None:
    entry(tmp_path, diagnose=step("d", f"touch {tmp_path}/ran"))
    assert runbook(tmp_path, "run", "small", "smaller-still").returncode == 2
    assert not (tmp_path / "ran").exists()


def test_a_step_that_changes_the_host_runs_only_where_that_is_allowed(tmp_path: Path) -> None:
    entry(tmp_path, fix=step("f", f"touch {tmp_path}/ran", "safety=changes-host"), verify=step("v", "true"))
    for words in ([], ["--step", "f"], ["--phase", "verify", "--allow", "busy"]):
        done = runbook(tmp_path, "run", "small", *words)
        assert "--allow changes-host" in " ".join(done.stdout.split())
        assert not (tmp_path / "ran").exists()
    done = runbook(tmp_path, "run", "small", "--allow", "changes-host")
    assert "fix/f: passed" in done.stdout
    assert (tmp_path / "ran").exists()


def test_verify_alone_runs_fix_first_and_reproduce_reaches_nobody(tmp_path: Path) -> None:
    entry(
        tmp_path,
        reproduce=step("r", f"export BAD=1; touch {tmp_path}/injected; " + says(SYMPTOM, 1)),
        fix=step("f", "export GOOD=${BAD-fine}"),
        verify=step("v", "[ $GOOD = fine ]; [ -z ${BAD-} ]"),
    )
    done = runbook(tmp_path, "run", "small", "--phase", "verify")
    assert "verify/v: passed" in done.stdout
    # Nothing looked at the node as it was before Fix.
    assert "small: inconclusive" in done.stdout
    assert done.returncode == 3
    assert not (tmp_path / "injected").exists()
    assert runbook(tmp_path, "run", "small", "--reproduce").returncode == 0
    assert (tmp_path / "injected").exists()


# Documents that cannot be believed.


def test_each_unbelievable_document_is_an_error_with_one_clear_reason(tmp_path: Path) -> None:
    unitless = {key: value for key, value in MEASURED.items() if key != "unit"}
    blocks = {
        "not-json": (says("speed: 3"), "is not JSON"),
        "nan": (says('{"probe": NaN}'), "contains NaN"),
        "infinite": (says('{"probe": Infinity}', 1), "contains Infinity"),
        "unitless": (says(GOOD | {"measurements": [unitless]}), "lacks a unit"),
        "unknown": (says(GOOD | {"measurements": [MEASURED | {"name": "speed"}]}), "unknown metric"),
        "crash": ("exit 1", "a crash, not a symptom"),
        "contradiction": (says(GOOD, 1), "a crash, not a symptom"),
        "large": (f"head -c {MAX_DOCUMENT_BYTES + 1} /dev/zero > $RUNBOOK_RESULT", "larger than"),
    }
    entry(tmp_path, diagnose="\n\n".join(step(name, block) for name, (block, _) in blocks.items()))
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    (record,) = records(tmp_path)
    for result in record.steps:
        assert result.status == "error", result
        assert blocks[result.id][1] in (result.reason or "")
        assert (result.reason or "?") in done.stdout


def test_a_fallback_that_nobody_asked_for_is_an_issue(tmp_path: Path) -> None:
    entry(tmp_path, verify=step("v", says(GOOD | {"fallback_reason": "no flash attention"})))
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 1
    (record,) = records(tmp_path)
    assert (record.steps[0].status, record.outcome) == ("failed", "not_fixed")
    assert "unrequested fallback: no flash attention" in done.stdout


# Blocks that misbehave.

MEASURES_MEMORY = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_gigabyte_of_output_costs_neither_memory_nor_disk(tmp_path: Path) -> None:
    entry(tmp_path, diagnose=step("d", "head -c 1G /dev/zero; head -c 1M /dev/zero >&2; echo the end"))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURES_MEMORY, *command(tmp_path, "run", "small")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )
    status, peak_kib = measured.stdout.split()
    assert status == "0"
    assert int(peak_kib) < 300 * 1024
    (result,) = records(tmp_path)[0].steps
    for tail, dropped, size in (
        (result.stdout_tail, result.stdout_dropped_bytes, 2**30 + 8),
        (result.stderr_tail, result.stderr_dropped_bytes, 2**20),
    ):
        kept = size - dropped
        assert 0 < kept <= HEAD_BYTES + TAIL_BYTES
        assert f"[{dropped} bytes dropped]" in tail
        assert len(tail) == kept + len(f"\n[{dropped} bytes dropped]\n")
    assert result.stdout_tail.endswith("the end\n")


def test_output_of_any_bytes_is_kept_as_text_and_changes_nothing_else(tmp_path: Path) -> None:
    text = "red <script>alert(1)</script> {{ 7 * 7 }} {% raw %} [bold]x[/bold] "
    # What steers a terminal is all that goes.
    coloured = text.replace("red", "\x1b[31mred\x1b[0m")
    (tmp_path / "bytes").write_bytes(coloured.encode() + b"\xff\xfe\xed\xa0\x80\n")
    entry(tmp_path, diagnose=step("d", f"cat {tmp_path}/bytes; cat {tmp_path}/bytes >&2"))
    done = runbook(tmp_path, "run", "small", "--json")
    assert done.returncode == 0, done.stderr
    (printed,) = json.loads(done.stdout)
    (record,) = records(tmp_path)
    wanted = text + r"\xff\xfe\xed\xa0\x80" + "\n"
    assert record.steps[0].stdout_tail == record.steps[0].stderr_tail == wanted
    assert printed["steps"][0]["stdout_tail"] == wanted


def test_blocks_that_misbehave_end_and_leave_nothing_running(tmp_path: Path, mark: str) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON, encoding="utf-8")
    blocks = {
        "daemon": f"{sys.executable} {tmp_path}/daemon.py {mark}",
        "silent": "exec 1>&- 2>&-; sleep 0.1; exit 5",
        "asks": "read -r answer",
        "background": f"(exec -a {mark} sleep 1000) &",
        "stubborn": f"trap '' TERM HUP INT; setsid bash -c 'exec -a {mark} sleep 1000' & "
        "while true; do sleep 0.05; done",
    }
    entry(
        tmp_path,
        diagnose="\n\n".join(
            step(name, block, "timeout=0.5" if name == "stubborn" else "") for name, block in blocks.items()
        ),
    )
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 3, done.stderr
    (record,) = records(tmp_path)
    found = {result.id: (result.status.value, result.exit_status) for result in record.steps}
    assert found == {
        "daemon": ("passed", 0),
        "silent": ("error", 5),
        "asks": ("error", 1),
        "background": ("passed", 0),
        "stubborn": ("timeout", None),
    }
    assert alive(mark) == []
    ended = {result.id: result.processes_ended > 0 for result in record.steps}
    assert ended == {
        "daemon": True,
        "silent": False,
        "asks": False,
        "background": True,
        "stubborn": True,
    }


# Signals to the program.


def endless(tmp_path: Path, mark: str) -> None:
    """A finished step, one that never ends and has a child in a session of its own, and one that never begins."""
    block = f"setsid bash -c 'exec -a {mark} sleep 1000' & touch {tmp_path}/on; exec -a {mark} sleep 1000"
    entry(
        tmp_path,
        diagnose=step("first", "echo done") + "\n\n" + step("endless", block),
        verify=step("never", f"touch {tmp_path}/ran"),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_lost_terminal_ends_the_step_and_leaves_a_valid_record(
    number: signal.Signals, tmp_path: Path, mark: str
) -> None:
    endless(tmp_path, mark)
    with started(tmp_path, "run", "small", "small", "--json") as process:
        until(lambda: (tmp_path / "on").exists() and len(alive(mark)) >= 2, process)
        # The terminal signals its foreground group; a lost one can no longer be written to either.
        os.killpg(process.pid, number)
        if number is signal.SIGHUP:
            assert process.stderr
            process.stderr.close()
            assert process.stdout
            printed = process.stdout.read()
        else:
            printed, errors = process.communicate(timeout=400)
            assert "Traceback" not in errors
        assert process.wait(timeout=400) == 130
    assert alive(mark) == []
    assert not (tmp_path / "ran").exists()
    (record,) = records(tmp_path)
    assert [result.status.value for result in record.steps] == ["passed", "interrupted", "skipped"]
    assert record.outcome == "incomplete"
    assert [run["run_id"] for run in json.loads(printed)] == [record.run_id]


def test_under_nohup_a_lost_terminal_does_not_end_a_run(tmp_path: Path) -> None:
    entry(
        tmp_path,
        diagnose=step("d", f"touch {tmp_path}/on; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"),
    )
    with started(tmp_path, "run", "small", prefix=("nohup",)) as process:
        until((tmp_path / "on").exists, process)
        os.killpg(process.pid, signal.SIGHUP)
        (tmp_path / "go").touch()
        process.communicate(timeout=400)
    assert process.returncode == 0
    assert records(tmp_path)[0].outcome == "healthy"


def test_ctrl_c_while_nothing_runs_yet_ends_with_130_or_before(tmp_path: Path) -> None:
    entry(tmp_path, diagnose=step("d", "true"))
    program = (
        "import os, signal, sys\nfrom runner.cli import main, run\n"
        "run.look_both = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.exit(main.main({command(tmp_path, 'run', 'small')[3:]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "runbook: interrupted\n")


def test_a_killed_program_leaves_finished_steps_whole_files_and_a_free_node(
    tmp_path: Path, mark: str, own_node: Path
) -> None:
    """What is lost: the step at work, whose processes are ended, and the outcome. The record has every step before."""
    endless(tmp_path, mark)
    with started(tmp_path, "run", "small") as process:
        until(lambda: (tmp_path / "on").exists() and len(alive(mark)) >= 2, process)
        process.kill()
        process.wait(timeout=400)
    eventually(lambda: not alive(mark), "the step's processes to be ended")
    (path,) = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    record = Record.model_validate_json(path.read_bytes())
    assert [(result.id, result.status.value) for result in record.steps] == [("first", "passed")]
    assert (record.outcome, record.ended_at) == (None, None)
    assert str(process.pid) in own_node.read_text(encoding="utf-8")
    write_entry(tmp_path / "runbooks", step("look", "true"), entry_id="next", number=2)
    eventually(lambda: runbook(tmp_path, "run", "next").returncode == 0, "the node to be free")


# Where the program's own output, its record or its temporary files cannot be written.


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_neither_the_run_nor_its_record(
    words: list[str], tmp_path: Path
) -> None:
    entry(tmp_path, diagnose=step("d", "true"), verify=step("v", "true"))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(tmp_path, "run", "small", *words),
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    # A program that asked for the records and did not get them is told so; a human who left is not.
    assert done.returncode == (3 if words else 0), done.stderr
    assert ("could not write the records" in done.stderr) == bool(words)
    assert "Traceback" not in done.stderr
    assert records(tmp_path)[0].outcome == "healthy"


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_full_disk_behind_standard_output_does_not_either(words: list[str], tmp_path: Path) -> None:
    entry(tmp_path, diagnose=step("d", "true"), verify=step("v", "true"))
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command(tmp_path, "run", "small", *words),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == (3 if words else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert records(tmp_path)[0].outcome == "healthy"


def test_a_terminal_without_utf_8_gets_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    entry(tmp_path, diagnose=step("d", says(SYMPTOM | {"reason": "größer"}, 1)))
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 1, done.stderr
    assert r"gr\xf6\xdfer" in done.stdout


@pytest.mark.parametrize("place", ["/proc/runbook-data", "{tmp_path}/a-file/data"])
def test_a_data_folder_that_cannot_be_made_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    entry(tmp_path, diagnose=step("d", f"touch {tmp_path}/ran"))
    words = command(tmp_path, "run", "small", "--json")
    words[words.index("--data") + 1] = place.format(tmp_path=tmp_path)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.startswith("runbook: ")]) == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_record_that_no_disk_takes_ends_with_3_and_leaves_the_last_state(tmp_path: Path) -> None:
    """A limit on the size of files stands in for full disks: the data folder's and that of temporary files."""
    noise = "head -c 60000 /dev/urandom | base64 -w 60"
    entry(tmp_path, diagnose=step("small", "true") + "\n\n" + step("large", noise))
    done = subprocess.run(
        command(tmp_path, "run", "small"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert done.returncode == 3
    assert "File too large" in done.stderr
    assert "the last state that was saved" in done.stderr
    assert "Traceback" not in done.stderr
    (path,) = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [step.id for step in Record.model_validate_json(path.read_bytes()).steps] == ["small"]
