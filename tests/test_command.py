"""Blocks that behave, and blocks that do everything a block should not: all with the real bash."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.run import watchdog
from runner.run.command import BlockEnding, CommandResult, run_block
from runner.run.output import HEAD_BYTES, TAIL_BYTES, OutputWindow

ROOT = Path(__file__).parents[1]
BASE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
MARK = "RUNBOOK_TEST_MARK"


def run(
    command: str, tmp_path: Path, timeout: float = 400.0, environment: Mapping[str, str] = BASE
) -> CommandResult:
    return run_block(command, environment=environment, timeout=timeout, cwd=tmp_path)


def alive(mark: str) -> list[int]:
    """Every process whose command line carries a mark."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(mark in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that only this test's processes carry; whatever of them outlives the test is ended."""
    word = f"{MARK}-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    for pid in alive(word):
        os.kill(pid, 9)


@pytest.fixture
def late_once_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: once it is there, a deadline of up to 1000 seconds has passed, however slow or fast the machine is."""
    on, now = tmp_path / "on", time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + (1000 if on.exists() else 0))
    return on


def test_a_block_runs_in_the_folder_given_without_standard_input(tmp_path: Path) -> None:
    result = run("pwd; cat; echo end >&2", tmp_path)
    assert (result.ending, result.exit_status) == (BlockEnding.EXITED, 0)
    assert result.stdout.text == f"{tmp_path}\n"
    assert result.stderr.text == "end\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 7", 7),
        ("false; echo unreachable", 1),
        ("false | true", 1),
        ("echo $unset_variable", 1),
        ("kill -SEGV $$", -11),
        ("no-such-program", 127),
        ("if then", 2),
    ],
)
def test_the_exit_status_is_bashs_own_under_strict_settings(
    command: str, status: int, tmp_path: Path
) -> None:
    result = run(command, tmp_path)
    assert (result.ending, result.exit_status) == (BlockEnding.EXITED, status)
    assert result.environment is None
    assert "unreachable" not in result.stdout.text


def test_error_messages_name_the_lines_of_the_block(tmp_path: Path) -> None:
    assert "line 3: nonsense" in run("true\n\nnonsense", tmp_path).stderr.text


def test_a_blocks_own_exit_trap_still_runs(tmp_path: Path) -> None:
    assert run("trap 'echo bye' EXIT; echo hi", tmp_path).stdout.text == "hi\nbye\n"


def test_a_deadline_ends_the_block_and_keeps_what_it_had_printed(
    tmp_path: Path, mark: str, late_once_on: Path
) -> None:
    result = run(f"echo early; touch {late_once_on}; exec -a {mark} sleep 1000", tmp_path)
    assert (result.ending, result.exit_status) == (BlockEnding.TIMEOUT, None)
    assert result.stdout.text == "early\n"
    assert result.processes_ended >= 1
    assert alive(mark) == []


def test_a_block_that_ignores_sigterm_is_killed(tmp_path: Path, mark: str) -> None:
    result = run(
        f"trap '' TERM; while true; do bash -c 'exec -a {mark} sleep 0.2'; done", tmp_path, timeout=0.3
    )
    assert result.ending is BlockEnding.TIMEOUT
    assert alive(mark) == []


# A daemon as daemons are made: two forks, a session of its own, an empty environment, no open files of the block.
DAEMON = """
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
null = os.open('/dev/null', os.O_RDWR)
for fd in (0, 1, 2): os.dup2(null, fd)
os.execve('/bin/sleep', [sys.argv[1], '1000'], {})
"""


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_a_daemon_that_left_group_session_and_environment_does_not_get_away(
    ends_by_itself: bool, tmp_path: Path, mark: str, late_once_on: Path
) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON, encoding="utf-8")
    command = f"{sys.executable} daemon.py {mark}; echo started; " + (
        "true" if ends_by_itself else f"touch {late_once_on}; sleep 1000"
    )
    result = run(command, tmp_path)
    assert result.ending is (BlockEnding.EXITED if ends_by_itself else BlockEnding.TIMEOUT)
    assert result.stdout.text == "started\n"
    assert result.processes_ended >= 1
    assert alive(mark) == []


def test_no_daemon_gets_away_while_its_parents_are_still_dying(tmp_path: Path, mark: str) -> None:
    # Each round catches the daemon's forks at another moment.
    (tmp_path / "daemon.py").write_text(DAEMON, encoding="utf-8")
    for _ in range(25):
        assert run(f"{sys.executable} -S -E daemon.py {mark}", tmp_path).processes_ended >= 1
    assert alive(mark) == []


def test_ctrl_c_at_the_moment_of_the_start_leaves_nothing_running(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def interrupted_start(*words: Any, **options: Any) -> "subprocess.Popen[bytes]":
        process = start(*words, **options)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted_start)
    before = signal.getsignal(signal.SIGINT)
    result = run(f"exec -a {mark} sleep 1000", tmp_path)
    assert result.ending is BlockEnding.INTERRUPTED
    assert alive(mark) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_timeout_kills_grandchildren_that_changed_their_group(tmp_path: Path, mark: str) -> None:
    result = run(f"setsid bash -c 'trap \"\" TERM; exec -a {mark} sleep 1000' & wait", tmp_path, timeout=0.5)
    assert result.ending is BlockEnding.TIMEOUT
    assert alive(mark) == []


def test_a_background_process_that_holds_the_pipes_does_not_hold_the_run(tmp_path: Path, mark: str) -> None:
    result = run(f"(exec -a {mark} sleep 1000) & echo done", tmp_path)
    assert (result.ending, result.exit_status, result.stdout.text) == (BlockEnding.EXITED, 0, "done\n")
    assert result.processes_ended >= 1
    assert alive(mark) == []


def test_what_is_asked_to_end_may_start_programs_to_clean_up_with(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.run.block.GRACE_S", 600.0)
    cleans = f"trap 'sleep 0.3; touch {tmp_path}/clean; exit' TERM; touch {tmp_path}/on; while :; do sleep 0.05; done"
    wait = f"while [ ! -e {tmp_path}/on ]; do sleep 0.01; done"
    for _ in range(5):
        result = run(f'(exec -a {mark} bash -c "{cleans}") & {wait}', tmp_path)
        assert (result.ending, result.exit_status) == (BlockEnding.EXITED, 0)
        assert (tmp_path / "clean").exists()
        (tmp_path / "clean").unlink()
        (tmp_path / "on").unlink()
    assert alive(mark) == []


def test_children_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "1000"])
    dead = subprocess.Popen(["sh", "-c", "exit 5"])
    run("sleep 1000 & true", tmp_path)
    assert other.poll() is None
    assert dead.wait() == 5
    other.kill()
    other.wait()


def test_closed_output_does_not_end_a_block_early(tmp_path: Path) -> None:
    result = run("exec 1>&- 2>&-; sleep 0.2; exit 4", tmp_path)
    assert (result.ending, result.exit_status) == (BlockEnding.EXITED, 4)


def test_a_gigabyte_of_output_is_read_and_bounded(tmp_path: Path) -> None:
    result = run(
        "echo first; head -c 1000000000 /dev/zero | tr '\\0' 'x'; echo; echo last", tmp_path, timeout=400
    )
    assert result.exit_status == 0
    assert result.stdout.text.startswith("first\n")
    assert result.stdout.text.endswith("last\n")
    assert result.stdout.dropped_bytes > 999_000_000
    assert len(result.stdout.text) < 80_000


def test_bytes_of_any_kind_become_text(tmp_path: Path) -> None:
    result = run(r"printf '\xff\xfe\x00ok\x1b[31mred<script>\n'", tmp_path)
    assert result.stdout.text == "\\xff\\xfe\x00ok\x1b[31mred<script>\n"


def test_a_block_that_cannot_start_says_why(tmp_path: Path) -> None:
    result = run("true", tmp_path / "not-there")
    assert result.ending is BlockEnding.NOT_STARTED
    assert "not-there" in (result.problem or "")
    assert run("x" * 200_000, tmp_path).ending is BlockEnding.NOT_STARTED


INTERRUPTED = """
import json, os, sys
from pathlib import Path
from runner.run.command import run_block
done = run_block(sys.argv[1], environment=dict(os.environ), timeout=100, cwd=Path.cwd())
print(json.dumps([done.ending.value, done.stdout.text]))
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_the_block_and_so_does_an_impatient_second_one(
    signals: int, tmp_path: Path, mark: str
) -> None:
    # What it is asked by the first one it says, and does not heed; a second one then finds it in its grace.
    heard = f"trap 'touch {tmp_path}/asked' TERM; touch {tmp_path}/on"
    block = f"echo early; {heard}; while true; do bash -c 'exec -a {mark} sleep 0.2' || true; done"
    grace = f"import runner.run.block as b\nb.GRACE_S = {2.0 if signals == 1 else 600.0}"
    runner = subprocess.Popen(
        [sys.executable, "-c", f"{grace}\n{INTERRUPTED}", block],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for moment in ("on", "asked")[:signals]:
        while not (tmp_path / moment).exists():
            assert runner.poll() is None
            time.sleep(0.01)
        runner.send_signal(2)
    printed, _ = runner.communicate(timeout=400)
    assert printed.strip() == '["interrupted", "early\\n"]'
    assert alive(mark) == []


def test_ctrl_c_while_what_a_block_left_behind_is_ended_is_an_interrupt_too(
    tmp_path: Path, mark: str
) -> None:
    # The shell ends by itself; its child answers SIGTERM by saying so, and stays for the whole grace.
    stubborn = f"trap 'touch {tmp_path}/asked' TERM; touch {tmp_path}/on; while true; do sleep 0.05; done"
    block = f'(exec -a {mark} bash -c "{stubborn}") & while [ ! -e {tmp_path}/on ]; do sleep 0.01; done'
    with subprocess.Popen(
        [sys.executable, "-c", f"import runner.run.block as b\nb.GRACE_S = 600.0\n{INTERRUPTED}", block],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as runner:
        while not (tmp_path / "asked").exists():
            assert runner.poll() is None
            time.sleep(0.01)
        runner.send_signal(2)
        printed, _ = runner.communicate(timeout=60)
    assert json.loads(printed)[0] == "interrupted"
    assert alive(mark) == []


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(1, 40), st.integers(1, 40))
def test_a_window_never_holds_more_than_its_bounds_and_counts_every_byte(
    pieces: list[bytes], head: int, tail: int
) -> None:
    window = OutputWindow(head, tail)
    for piece in pieces:
        window.add(piece)
    whole = b"".join(pieces)
    captured = window.captured()
    if captured.dropped_bytes == 0:
        assert captured.text == whole.decode("utf-8", "backslashreplace")
        return
    assert len(whole) > head + tail
    assert f"[{captured.dropped_bytes} bytes dropped]" in captured.text
    assert len(whole) - head - tail <= captured.dropped_bytes <= len(whole)


@given(st.integers(20, 200))
def test_no_half_of_a_word_remains_at_a_cut(length: int) -> None:
    window = OutputWindow()
    secret = "s" * length
    window.add(b"x " * (HEAD_BYTES // 2 - length // 4))
    window.add(f"{secret} ".encode())
    window.add(b"y " * TAIL_BYTES)
    text = window.captured().text
    assert secret in text or "s" not in text.replace("bytes dropped", "")


def test_a_watchdog_that_a_block_stopped_goes_on_and_is_waited_for_by_nobody(tmp_path: Path) -> None:
    run("true", tmp_path)
    stopped = watchdog.pid()
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    assert run("true", tmp_path).exit_status == 0
    # One that does not answer is replaced, half a minute later.
    assert watchdog.pid() == stopped


def test_a_block_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from runner.run.command import run_block\n"
        "done = run_block('echo \\u00e9', environment=dict(os.environ), timeout=100, cwd=Path.cwd())\n"
        "print(done.problem, ascii(done.stdout.text))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**BASE, **locale, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout == "None '\\xe9\\n'\n", done.stderr


@pytest.mark.parametrize("options", ["noexec", "onecmd"])
def test_a_block_runs_whole_whatever_options_the_caller_exports(options: str, tmp_path: Path) -> None:
    environment = {**BASE, "SHELLOPTS": options}
    assert run("true\ntrue\nexit 7", tmp_path, environment=environment).exit_status == 7
