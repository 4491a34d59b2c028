"""A look at the host in a process of its own: what hangs or dies there holds up nobody else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.hardware import apart
from runner.hardware.apart import LookApart
from runner.hardware.machine import look
from tests import nvml

ROOT = Path(__file__).parents[1]


def program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(apart, "_PROGRAM", text)


def test_it_sees_what_a_look_in_this_process_sees() -> None:
    with LookApart() as looking:
        seen = looking.answer(300)
    # The load of the host changes between two looks.
    assert seen.machine.model_copy(update={"load": None}) == look().model_copy(update={"load": None})
    assert seen.hung == ()


def test_it_sees_the_gpus_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in nvml.environment(tmp_path, nvml.EIGHT_B200).items():
        monkeypatch.setenv(name, value)
    with LookApart() as looking:
        seen = looking.answer(300)
    assert (seen.machine.machine_class, seen.machine.gpu_error) == ("8xB200-180GB", None)


def test_a_process_that_gives_no_answer_is_left_and_the_gpus_are_unreadable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(monkeypatch, "import time; time.sleep(1000)")
    with LookApart() as looking:
        seen = looking.answer(0.2)
    assert seen.machine.gpus == ()
    assert seen.machine.gpu_error
    assert "no answer within" in seen.machine.gpu_error


def test_an_answer_counts_although_its_process_never_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_EXIT_S", 0.1)
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    program(monkeypatch, f"{apart._PROGRAM}; {ignoring}; import time; time.sleep(1000)")
    # As of a thread that waits in the kernel: it hears nothing.
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _process: None)
    looking = LookApart()
    with looking:
        seen = looking.answer(300)
    assert seen.machine.cores
    assert looking._process.poll() is None
    os.kill(looking._process.pid, signal.SIGKILL)
    looking._process.wait()


def test_a_library_that_kills_its_process_makes_the_gpus_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with LookApart() as looking:
        seen = looking.answer(300)
    assert seen.machine.gpu_error == "NVML: the process that reads it was killed by SIGSEGV"


def test_a_process_that_fails_for_another_reason_is_replaced_by_a_look_in_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(monkeypatch, "print('no JSON')")
    with LookApart() as looking:
        assert looking.answer(300).machine.gpu_error == look().gpu_error


def test_nothing_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    for name in ("json.py", "runner.py", "pydantic.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from runner.hardware.apart import *\nwith LookApart() as a: a.answer(300)",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_look_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import time; time.sleep(1000)")
    looking = LookApart()
    with pytest.raises(KeyboardInterrupt), looking:
        raise KeyboardInterrupt
    until = time.monotonic() + 300
    while looking._process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert looking._process.returncode == -signal.SIGKILL
