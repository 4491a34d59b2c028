"""A runner that is ended from outside, by every signal that can: what becomes of its step, its record, its node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.base import processes
from runner.base.processes import stat_of
from runner.run import watchdog
from runner.run.watchdog import NAME
from tests.cluster import until
from tests.test_cli import ROOT, command, records, runbook, step, write_entry
from tests.test_command import DAEMON, alive, mark
from tests.test_faults import started

__all__ = ["mark"]

# A shell's child, a Python's child (which inherits no descriptor), one in a session of its own, and a daemon that has
# left its group, its session and its environment.
PYTHON = "import subprocess, sys; subprocess.run(['bash', '-c', 'exec -a {mark} sleep 1000'])"
BLOCK = """\
(exec -a {mark} sleep 1000) &
{python} -c "{child}" &
setsid bash -c 'exec -a {mark} sleep 1000' &
{python} {here}/daemon.py {mark}
touch {here}/on
wait
"""
ORDERLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
AT_ONCE = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGALRM)


@contextmanager
def running(tmp_path: Path, mark: str) -> Iterator["subprocess.Popen[str]"]:
    """A real run whose step has all four at work."""
    (tmp_path / "daemon.py").write_text(DAEMON, encoding="utf-8")
    child = PYTHON.format(mark=mark)
    block = BLOCK.format(mark=mark, python=sys.executable, child=child, here=tmp_path)
    write_entry(
        tmp_path / "runbooks",
        step("first", "echo done") + "\n\n" + step("endless", block),
        verify=step("never", f"touch {tmp_path}/ran"),
    )
    with started(tmp_path, "run", "small") as process:
        until(lambda: (tmp_path / "on").exists() and len(sleepers(mark)) == 4, "the step to be at work")
        yield process


def sleepers(mark: str) -> list[int]:
    """Processes that call themselves by the mark, and not those that only have it among their words."""
    # In one look: a daemon's parents carry the mark too, and may be gone at a second one.
    return [one.pid for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0] == mark]


@pytest.mark.parametrize("number", ORDERLY, ids=lambda number: number.name)
def test_a_signal_that_asks_ends_the_step_closes_the_record_and_is_130(
    number: signal.Signals, tmp_path: Path, mark: str
) -> None:
    with running(tmp_path, mark) as process:
        process.send_signal(number)
        said = process.communicate(timeout=400)
    assert process.returncode == 130, said
    assert alive(mark) == []
    (record,) = records(tmp_path)
    assert [result.status for result in record.steps] == ["passed", "interrupted", "skipped"]
    assert record.outcome == "incomplete"
    assert record.ended_at is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", AT_ONCE, ids=lambda number: number.name)
def test_a_signal_that_kills_leaves_no_process_of_the_step_and_the_node_free(
    number: signal.Signals, tmp_path: Path, mark: str
) -> None:
    with running(tmp_path, mark) as process:
        process.send_signal(number)
        assert process.wait(timeout=400) == -number
        until(lambda: not alive(mark), "the step's processes to be ended")
    (record,) = records(tmp_path)
    assert ([result.id for result in record.steps], record.outcome) == (["first"], None)
    write_entry(tmp_path / "runbooks", step("look", "true"), entry_id="next", number=2)
    until(lambda: runbook(tmp_path, "run", "next").returncode == 0, "the node to be free")


def test_until_the_last_process_of_a_killed_run_is_gone_the_node_is_held_and_it_is_named(
    tmp_path: Path, mark: str
) -> None:
    with running(tmp_path, mark) as process:
        # The watchdog is killed too, as a kill of everything in a container would do; the processes are not.
        (dog,) = [one for one in psutil.Process(process.pid).children() if one.name() == NAME]
        dog.kill()
        process.kill()
        process.wait(timeout=400)
        write_entry(tmp_path / "runbooks", step("look", "true"), entry_id="next", number=2)
        refused = runbook(tmp_path, "run", "next")
        assert refused.returncode == 3
        (line,) = refused.stderr.splitlines()
        assert "holds this node: its runner is gone" in line
        named = [pid for pid in sleepers(mark) if f"process {pid} (state S, `sleep`)" in line]
        # All but the one that Python started, which closes what its children do not need.
        assert len(named) == 3, line
        for pid in alive(mark):
            os.kill(pid, signal.SIGKILL)
        until(lambda: runbook(tmp_path, "run", "next").returncode == 0, "the node to be free")


def test_a_look_that_is_killed_leaves_nothing_either(tmp_path: Path, mark: str) -> None:
    block = f"(exec -a {mark} sleep 1000) & touch {tmp_path}/on; wait"
    write_entry(tmp_path / "runbooks", step("d", block))
    with subprocess.Popen(
        command(tmp_path, "diagnose"), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        until(lambda: (tmp_path / "on").exists() and bool(sleepers(mark)), "the look to be at work")
        process.kill()
        process.wait(timeout=400)
    until(lambda: not alive(mark), "its processes to be ended")


def test_a_signal_between_two_steps_is_heeded_at_the_next_and_the_record_has_its_end(tmp_path: Path) -> None:
    write_entry(
        tmp_path / "runbooks",
        step("first", "true") + "\n\n" + step("second", f"touch {tmp_path}/second; sleep 1000"),
    )
    program = (
        "import os, signal, sys\nfrom runner.cli import main, progress\n"
        "progress.RunProgress.step_ended = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(main.main({command(tmp_path, 'run', 'small')[3:]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 130, done.stderr
    (record,) = records(tmp_path)
    assert [result.status for result in record.steps] == ["passed", "interrupted"]
    assert record.ended_at is not None


def test_the_watchdog_of_a_run_that_ends_by_itself_ends_nothing_and_goes(tmp_path: Path, mark: str) -> None:
    other = subprocess.Popen(["bash", "-c", f"exec -a {mark} sleep 1000"])
    try:
        write_entry(
            tmp_path / "runbooks",
            step(
                "who",
                f"until ps -o pid=,comm= --ppid $PPID | grep {NAME} > {tmp_path}/dog; do sleep 0.05; done",
            ),
        )
        done = runbook(tmp_path, "run", "small", "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        assert json.loads(done.stdout)[0]["steps"][0]["processes_ended"] == 0
        dog = int((tmp_path / "dog").read_text(encoding="utf-8").split()[0])
        # A runner that is slow to see it go leaves it to init, which may be slow to reap it.
        until(lambda: (one := stat_of(dog)) is None or not one.lives, "the watchdog to go")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_watchdog_reads_no_other_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # It may be mapped from a file that never answers, and nothing of the step would be ended.
    asked: list[int] = []
    monkeypatch.setattr(processes, "environment_has", lambda pid, _mark: asked.append(pid))
    user: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "1000"], cwd="/", **user) as process:
        try:
            list(watchdog._left((watchdog._Block("token", ()),)))
        finally:
            process.kill()
    assert asked
    assert (process.pid in asked) == (os.geteuid() != 0)
