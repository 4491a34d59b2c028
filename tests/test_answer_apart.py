"""What asks the driver runs in a forked process, which may hang, die, or fail."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import nvml

ROOT = Path(__file__).parents[1]
BEGIN = """
import os, signal, sys, threading, time
from runner.base.errors import InputError, RunbookError
from runner.kit.apart import answer_apart
from runner.kit.probe import NotApplicableError
"""


def program(text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BEGIN + text],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_the_answer_is_that_of_another_process_and_what_it_prints_is_kept() -> None:
    done = program("""
print("before")
def work():
    print("in the child"); return os.getpid()
print(answer_apart(work) != os.getpid())
""")
    assert done.stdout.splitlines() == ["before", "in the child", "True"], done.stderr


@pytest.mark.parametrize(
    "error", ["InputError('a')", "RunbookError('a')", "NotApplicableError('a')", "KeyError('a')"]
)
def test_an_error_is_raised_here_as_it_was_raised_there(error: str) -> None:
    done = program(f"""
def work():
    raise {error}
try:
    answer_apart(work)
except Exception as caught:
    print(repr(caught), "in work" in "".join(getattr(caught, "__notes__", ())))
""")
    assert done.stdout == f"{error} {error.startswith('KeyError')}\n", done.stderr


def test_a_child_that_never_exits_does_not_hold_up_its_parent(tmp_path: Path) -> None:
    # As with a thread that waits in the kernel: the answer is there, and the process stays.
    text = "os._exit = lambda _: time.sleep(1000)\nprint(answer_apart(os.getpid))"
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        # A file: a pipe would stay open as long as the child.
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + text], cwd=ROOT, stdout=out, check=False, timeout=400
        )
    child = int((tmp_path / "out").read_text(encoding="utf-8"))
    assert done.returncode == 0
    assert Path(f"/proc/{child}").exists()
    os.kill(child, signal.SIGKILL)


def test_a_library_that_kills_the_child_is_an_error_in_one_line() -> None:
    done = program("""
try:
    answer_apart(lambda: os.kill(os.getpid(), signal.SIGSEGV) or time.sleep(1000))
except RunbookError as error:
    print(error)
""")
    assert done.stdout.startswith("the process that reads the GPUs was killed by SIGSEGV; check dmesg"), (
        done.stderr
    )


def test_a_process_with_threads_is_not_forked() -> None:
    done = program("""
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print(answer_apart(os.getpid) == os.getpid())
""")
    assert done.stdout == "True\n", done.stderr


def test_the_probe_of_the_wiring_finds_the_same_through_its_child(tmp_path: Path) -> None:
    broken = nvml.environment(tmp_path, nvml.EIGHT_B200.replace("links 18", "links 0"))
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.topology"],
        cwd=ROOT,
        env={**os.environ, **broken},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert '"action": "drain"' in done.stdout
    assert "SYMPTOM: node: no uniform NVLink mesh" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda one: one.name)
def test_a_signal_to_the_probe_alone_leaves_no_child(ending: signal.Signals) -> None:
    text = "answer_apart(lambda: (print(os.getpid(), flush=True), time.sleep(1000)))"
    probe = [sys.executable, "-c", BEGIN + text]
    with subprocess.Popen(probe, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as one:
        assert one.stdout
        assert int(one.stdout.readline()) != one.pid
        one.send_signal(ending)
        # The pipes end when the last process that has them does.
        one.communicate(timeout=100)
