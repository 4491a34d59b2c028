"""The `runbook` command as its users meet it: the real program, real folders, real signals."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from runner.cli import cluster
from runner.cli.main import main
from runner.fleet.submit import Order
from runner.record.model import Record
from tests.cluster import until

ROOT = Path(__file__).parents[1]

HEAD = """\
---
id: {id}
number: {number}
title: A small entry
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

## Verify

{verify}
"""


def step(step_id: str, command: str, attributes: str = "") -> str:
    return f"```bash {{#{step_id} {attributes}}}\n{command}\n```"


def write_entry(
    folder: Path,
    diagnose: str = "",
    fix: str = "",
    verify: str = "",
    entry_id: str = "small",
    number: int = 1,
) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{entry_id}.md"
    text = HEAD.format(id=entry_id, number=number, diagnose=diagnose, fix=fix, verify=verify)
    path.write_text(text, encoding="utf-8")
    return path


def command(tmp_path: Path, *words: str) -> list[str]:
    runbooks, data = tmp_path / "runbooks", tmp_path / "data"
    return [sys.executable, "-m", "runner.cli.main", "--runbooks", str(runbooks), "--data", str(data), *words]


def runbook(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tmp_path, *words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )


def records(tmp_path: Path) -> list[Record]:
    files = sorted((tmp_path / "data").rglob("*.json"))
    return [Record.model_validate_json(path.read_text(encoding="utf-8")) for path in files]


def test_a_run_writes_one_record_and_says_where(tmp_path: Path) -> None:
    write_entry(
        tmp_path / "runbooks",
        step("look", "echo hello"),
        step("mend", "export A=1"),
        step("see", "test $A = 1"),
    )
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path)
    assert record.outcome == "healthy"
    assert [result.status for result in record.steps] == ["passed"] * 3
    assert record.steps[0].stdout_tail == "hello\n"
    assert "data/" in done.stdout


def test_a_step_that_exits_1_without_a_document_is_an_error_and_the_run_ends_with_3(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", "exit 1"))
    done = runbook(tmp_path, "run", "1")
    assert done.returncode == 3
    (record,) = records(tmp_path)
    assert (record.steps[0].status, record.outcome) == ("error", "incomplete")


def test_an_entry_that_does_not_exist_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true"))
    done = runbook(tmp_path, "run", "smaal")
    assert done.returncode == 2
    assert "no entry 'smaal' (did you mean 'small'?)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("run",), ("plan",), ("show",)])
def test_the_beginning_of_an_id_names_its_entry_where_no_other_begins_so(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true"))
    write_entry(tmp_path / "runbooks", step("other", "true"), entry_id="slow-link", number=2)
    write_entry(tmp_path / "runbooks", step("third", "true"), entry_id="slow-links", number=3)
    assert runbook(tmp_path, *words, "sma").returncode == 0
    assert runbook(tmp_path, *words, "Smal").returncode == 0
    for slip in ("s", "sm", "", "9" * 5000):
        done = runbook(tmp_path, *words, slip)
        assert done.returncode == 2
        assert "no entry" in done.stderr
    several = runbook(tmp_path, *words, "slow")
    assert several.returncode == 2
    assert "'slow' begins several ids; use one of slow-link, slow-links" in several.stderr
    # An id written out is that entry, whatever else begins with it; a number stays a number.
    assert runbook(tmp_path, *words, "slow-link").returncode == 0
    assert runbook(tmp_path, *words, "3").returncode == 0


def test_json_on_standard_output_is_json_alone(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", "echo hello"))
    done = runbook(tmp_path, "run", "small", "--json")
    (printed,) = json.loads(done.stdout)
    assert printed["outcome"] == "healthy"
    assert "look" in done.stderr


def test_the_exit_status_of_several_entries_is_that_of_the_worst(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true"))
    write_entry(tmp_path / "runbooks", step("look", "exit 9"), entry_id="broken", number=2)
    assert runbook(tmp_path, "run", "broken", "small").returncode == 3
    assert runbook(tmp_path, "run", "small").returncode == 0


def test_plan_runs_nothing_and_says_the_longest_time(tmp_path: Path) -> None:
    write_entry(
        tmp_path / "runbooks",
        step("look", f"touch {tmp_path}/ran", "timeout=40"),
        step("big", "true", "gpus=8"),
    )
    done = runbook(tmp_path, "plan", "small")
    assert done.returncode == 0, done.stderr
    assert "needs 8 GPUs" in " ".join(done.stdout.split())
    assert "40 s" in done.stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_valid_record_and_nothing_running(
    tmp_path: Path, signal_number: int
) -> None:
    marker = tmp_path / "started"
    write_entry(
        tmp_path / "runbooks",
        step("first", "echo done")
        + "\n\n"
        + step("endless", f"touch {marker}; sleep 1000 & echo $! > {tmp_path}/pid; wait"),
        step("never", "true"),
    )
    process = subprocess.Popen(command(tmp_path, "run", "small"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal_number)
    process.communicate(timeout=400)
    assert process.returncode == 130
    (record,) = records(tmp_path)
    assert [result.status for result in record.steps] == ["passed", "interrupted", "skipped"]
    assert record.outcome == "incomplete"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_killed_run_keeps_every_finished_step(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    body = step("first", "echo done") + "\n\n" + step("endless", f"echo $$ > {marker}; exec sleep 1000")
    write_entry(tmp_path / "runbooks", body)
    process = subprocess.Popen(command(tmp_path, "run", "small"), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not marker.exists() or not marker.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    (record,) = records(tmp_path)
    assert [(result.id, result.status) for result in record.steps] == [("first", "passed")]
    assert record.outcome is None


def test_two_runs_on_one_node_do_not_disturb_each_other(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    write_entry(tmp_path / "runbooks", step("endless", f"echo $$ > {marker}; exec sleep 1000"))
    first = subprocess.Popen(command(tmp_path, "run", "small"), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not marker.exists() or not marker.read_text():
        assert first.poll() is None
        time.sleep(0.02)
    second = runbook(tmp_path, "run", "small")
    first.send_signal(signal.SIGINT)
    first.wait(timeout=400)
    assert second.returncode == 3
    assert str(first.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_data_folder_that_cannot_be_written_stops_the_run_before_its_first_step(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", f"touch {tmp_path}/ran"))
    (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    done = runbook(tmp_path, "run", "small")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()


def test_a_data_folder_that_fails_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    spoil = f"rm -rf {tmp_path}/data; echo x > {tmp_path}/data"
    write_entry(
        tmp_path / "runbooks",
        step("look", "echo hello") + "\n\n" + step("spoil", spoil),
        verify=step("see", "true"),
    )
    done = runbook(tmp_path, "run", "small")
    kept = done.stderr.rsplit(" ", 1)[-1].strip()
    record = Record.model_validate_json(Path(kept).read_text(encoding="utf-8"))
    Path(kept).unlink()
    assert [result.status for result in record.steps] == ["passed"] * 3
    assert "Traceback" not in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("words", [["list"], ["--help"], ["check"]])
def test_torch_is_not_imported_by_what_does_not_need_it(tmp_path: Path, words: list[str]) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true"))
    arguments = command(tmp_path, *words)[3:]
    program = (
        "import sys\nfrom runner.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit(7 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", [None, "a_plugin"])
def test_a_step_has_the_callers_setting_of_pydantic_plugins(tmp_path: Path, given: str | None) -> None:
    name = "PYDANTIC_DISABLE_PLUGINS"
    write_entry(tmp_path / "runbooks", step("look", f"echo ${{{name}-unset}}"))
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    subprocess.run(command(tmp_path, "run", "small"), cwd=ROOT, env=environment, check=True, timeout=400)
    assert records(tmp_path)[0].steps[0].stdout_tail == f"{given or 'unset'}\n"


def test_a_log_names_each_step_as_it_begins_with_the_time_that_it_may_take(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true", "timeout=40"), verify=step("see", "true"))
    lines = runbook(tmp_path, "run", "small").stdout.splitlines()
    begins = lines.index("  diagnose/look: running, at most 40 s")
    assert lines[begins + 1].startswith("  diagnose/look: passed in ")
    assert "  verify/see: running, at most 5 min" in lines


def with_durations(tmp_path: Path, **seconds: float) -> None:
    """Have the data folder's records say that the steps took so long."""
    for path in (tmp_path / "data").rglob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for result in record["steps"]:
            result["duration_s"] = seconds.get(result["id"], result["duration_s"])
        path.write_text(json.dumps(record), encoding="utf-8")


def test_a_run_within_a_time_leaves_out_what_took_longer_before_and_gives_no_tick_for_it(
    tmp_path: Path,
) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true"), verify=step("see", "touch $RUNBOOK_RESULT.ran"))
    assert runbook(tmp_path, "run", "small").returncode == 0
    with_durations(tmp_path, see=1000)
    foreseen = runbook(tmp_path, "plan", "small", "--within", "2m")
    assert "left out: expected 5 min, " in " ".join(foreseen.stdout.replace("│", " ").split())
    done = runbook(tmp_path, "run", "small", "--within", "2m", "--json")
    (printed,) = json.loads(done.stdout)
    assert (printed["options"]["within"], printed["outcome"], done.returncode) == (120, "inconclusive", 3)
    look, see = printed["steps"]
    assert (look["status"], see["status"], see["left_out"]) == ("passed", "skipped", True)
    assert see["reason"].startswith("left out: expected 5 min, ")
    assert see["reason"].endswith(" left of 2 min")
    assert (
        "  1 step: did not fit into 2 min; a longer --within, or none, includes them"
        in done.stderr.splitlines()
    )


def test_a_time_of_years_is_called_too_long(tmp_path: Path) -> None:
    done = runbook(tmp_path, "run", "all", "--within=99999h")
    assert done.returncode == 2
    assert "'99999h' is more than a year" in done.stderr


@pytest.mark.parametrize("text", ["5", "0s", "-5m", "m", "5 minutes", "nan"])
def test_a_time_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    write_entry(tmp_path / "runbooks", step("look", f"touch {tmp_path}/ran"))
    done = runbook(tmp_path, "run", "small", f"--within={text}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].count("is not a time above zero; write 90s, 5m or 1h") == 1
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_run_leaves_its_terminal_as_it_was(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("endless", f"touch {tmp_path}/started; sleep 1000"))
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        command(tmp_path, "run", "small"),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    shown = b""
    while b"diagnose/endless: " not in shown or not (tmp_path / "started").exists():
        shown += os.read(ours, 1 << 16)
    process.send_signal(signal.SIGINT)
    while select.select([ours], [], [], 0.05)[0] or process.poll() is None:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 1 << 16)
    assert process.returncode == 130
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


class Launched(BaseException):
    """A campaign got as far as Slurm."""


def test_a_campaign_hands_the_time_to_its_nodes_and_asks_slurm_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(tmp_path / "runbooks", step("look", "true", "timeout=3000"))
    orders: list[Order] = []

    def launch(_arguments: object, order: Order, _console: object) -> None:
        orders.append(order)
        raise Launched

    monkeypatch.setattr(cluster, "launch", launch)
    for words in ((), ("--within", "10m"), ("--within", "2h")):
        with pytest.raises(Launched):
            main([*command(tmp_path)[3:], "run", "small", "--on", "slurm", *words])
    assert [order.longest_s for order in orders] == [3000, 600, 3000]
    assert [order.arguments for order in orders] == [(), ("--within", "600.000s"), ("--within", "7200.000s")]


def test_a_deadline_holds_where_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    write_entry(tmp_path / "runbooks", step("endless", "sleep 1000", "timeout=2"))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with subprocess.Popen(command(tmp_path, "run", "small"), cwd=ROOT, stdout=writer) as process:
        os.close(writer)
        try:
            until(lambda: any(one.outcome for one in records(tmp_path)), "the record to have its end")
            # What it came to is told to whoever reads again.
            with os.fdopen(reader, "rb") as pipe:
                assert b"still running at its deadline" in pipe.read()
            assert process.wait(100) == 3
        finally:
            process.kill()
