"""Stacks: what py-spy and faulthandler print, files of them, and those of live processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from runner.base.errors import InputError
from runner.base.parallel import in_parallel
from runner.base.processes import stat_of
from runner.hang import spying
from runner.hang.model import Frame, Unseen
from runner.hang.spying import StackTaker
from runner.hang.stack_files import read_stacks
from runner.hang.stacks import stack_in
from tests.cluster import until
from tests.hanging_ranks import functions_of

PY_SPY = """\
Process 4711: python train.py --lr 1e-4
Python v3.11.7 (/usr/bin/python3.11)

Thread 4711 (idle): "MainThread"
    0x7fbb05ea3f16 (libc.so.6)
    std::vector<int (*)(char)>::wait(long) (libtorch_cpu.so)
    all_reduce (torch/distributed/distributed_c10d.py:3252)
    _exception_logger.<locals>.wrapper (torch/distributed/c10d_logger.py:83)
    <module> (train.py:20)
Thread 4733 (active): "Thread-1 (_pin_memory_loop)"
    do_one_step (torch/utils/data/_utils/pin_memory.py:41)
"""
FAULTHANDLER = """\
INFO step 41
Timeout (0:00:30)!
Thread 0x00007fbae5c126c0 (most recent call first):
  <no Python frame>

Thread 0x00007fbb06618b80 [python] (most recent call first):
  File "/venv/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/venv/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/job/train.py", line 20 in <module>
INFO still alive
"""


def names(text: str) -> list[str]:
    return [frame.function for frame in stack_in(text)]


def as_json(*threads: Mapping[str, object]) -> str:
    return json.dumps([{"pid": 7, "active": False, "owns_gil": False, **one} for one in threads])


def frame(name: str, file: str = "train.py", line: int = 1) -> dict[str, object]:
    return {"name": name, "filename": file, "short_filename": file, "line": line, "locals": None}


def test_the_text_of_py_spy_gives_the_main_threads_functions_the_innermost_first() -> None:
    stack = stack_in(PY_SPY)
    assert [one.function for one in stack][2:] == [
        "all_reduce",
        "_exception_logger.<locals>.wrapper",
        "<module>",
    ]
    assert stack[1] == Frame(
        function="std::vector<int (*)(char)>::wait(long)", file="libtorch_cpu.so", line=0
    )
    assert stack[-1] == Frame(function="<module>", file="train.py", line=20)


def test_the_text_of_faulthandler_gives_the_last_thread_that_runs_python() -> None:
    assert names(FAULTHANDLER) == ["all_reduce", "wrapper", "<module>"]


def test_of_several_dumps_in_one_text_the_last_one_counts() -> None:
    later = PY_SPY.replace("all_reduce", "barrier")
    assert names(PY_SPY + "\n" + later)[2] == "barrier"
    again = FAULTHANDLER.replace("all_reduce", "barrier")
    assert names(FAULTHANDLER + again)[0] == "barrier"


def test_the_children_that_py_spy_lists_after_a_process_are_not_taken_for_it() -> None:
    child = 'Process 4800: python train.py\n\nThread 4800 (idle): "MainThread"\n    fetch (worker.py:9)\n'
    assert "fetch" not in names(PY_SPY + child)
    threads = [
        {"os_thread_id": 7, "thread_name": "MainThread", "frames": [frame("step")]},
        {"pid": 8, "os_thread_id": 8, "thread_name": "MainThread", "frames": [frame("fetch")]},
    ]
    assert names(as_json(*threads)) == ["step"]


def test_the_main_thread_is_known_by_its_number_whatever_it_is_called() -> None:
    renamed = {"os_thread_id": 7, "thread_name": "trainer", "frames": [frame("step")]}
    other = {"os_thread_id": 9, "thread_name": "MainThread", "frames": [frame("impostor")]}
    assert names(as_json(other, renamed)) == ["step"]


def test_a_hook_in_the_thread_of_a_backward_pass_counts_as_where_the_main_thread_is() -> None:
    waits = {
        "os_thread_id": 7,
        "thread_name": "MainThread",
        "frames": [frame("_engine_run_backward", "torch/autograd/graph.py", 824), frame("train")],
    }
    hook = {
        "os_thread_id": 8,
        "thread_name": None,
        "frames": [
            frame("reduce_scatter_tensor", "torch/distributed/distributed_c10d.py"),
            frame("_post_backward"),
        ],
    }
    loader = {
        "os_thread_id": 9,
        "thread_name": "Thread-1",
        "frames": [frame("get", "queue.py"), frame("_bootstrap", "/usr/lib/python3.11/threading.py")],
    }
    inside = ["reduce_scatter_tensor", "_post_backward", "_engine_run_backward", "train"]
    assert names(as_json(waits, hook, loader)) == inside
    assert names(as_json(waits, loader)) == inside[2:]
    elsewhere = waits | {"frames": [frame("compute"), frame("train")]}
    assert names(as_json(elsewhere, hook, loader)) == ["compute", "train"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "INFO step 41\n",
        "{}",
        "[]",
        "[1]",
        '[{"frames": 3}]',
        '[{"pid": 7}]',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_a_text_without_a_stack_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as raised:
        stack_in(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@given(some.text())
def test_no_text_is_too_odd(text: str) -> None:
    for one in (
        text,
        f"{PY_SPY}\n{text}",
        f"[{text}",
        f'Thread 0x1 (most recent call first):\n  File "{text}',
    ):
        try:
            stack = stack_in(one)
        except InputError:
            continue
        assert all(frame.function and "\n" not in frame.function for frame in stack)


_WORDS = some.text("abcdefg_<>.:", min_size=1, max_size=12)
_FRAMES = some.lists(
    some.builds(Frame, function=_WORDS, file=_WORDS.map(lambda w: f"{w}x"), line=some.integers(1, 999)),
    min_size=1,
)


@given(_FRAMES, _FRAMES)
def test_what_is_written_as_a_stack_is_read_as_that_stack(frames: list[Frame], others: list[Frame]) -> None:
    spied = "".join(f"    {one.function} ({one.file}:{one.line})\n" for one in frames)
    other = "".join(f"    {one.function} ({one.file}:{one.line})\n" for one in others)
    text = f'Process 5: python\n\nThread 6 (idle): "w"\n{other}Thread 5 (idle): "MainThread"\n{spied}'
    assert stack_in(text) == tuple(frames)
    faults = "".join(f'  File "{one.file}", line {one.line} in {one.function}\n' for one in frames)
    assert stack_in(f"Current thread 0x00ab (most recent call first):\n{faults}") == tuple(frames)


def test_each_file_of_a_folder_is_the_stack_of_the_rank_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "rank0.txt").write_text(PY_SPY)
    (tmp_path / "host17_rank_12.log").write_text(FAULTHANDLER)
    (tmp_path / "stack-3.json").write_text(
        as_json({"os_thread_id": 7, "thread_name": "MainThread", "frames": [frame("step")]})
    )
    (tmp_path / "rank4.txt").write_text("nothing here")
    (tmp_path / "README").write_text("stacks of the night")
    os.mkfifo(tmp_path / "rank5.txt")
    looks, unseen = read_stacks(tmp_path)
    assert [look.rank for look in looks] == [0, 3, 12]
    assert [one.reason.split()[0] for one in unseen] == ["README", "rank4.txt", "rank5.txt"]


def test_a_second_stack_of_a_rank_is_named_and_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a-rank1.txt").write_text(PY_SPY)
    (tmp_path / "b-rank1.txt").write_text(FAULTHANDLER)
    looks, unseen = read_stacks(tmp_path)
    assert len(looks) == 1
    assert "second stack of rank 1" in unseen[0].reason


def test_a_folder_without_any_stack_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stack in"):
        read_stacks(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_stacks(tmp_path / "absent")


PROGRAM = """
import sys, threading
def in_here():
    print("ready", flush=True)
    sys.stdin.read()
in_here()
"""


@pytest.fixture
def target() -> Iterator["subprocess.Popen[str]"]:
    """A program of Python that waits in `in_here`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def state_of(pid: int) -> str:
    stat = stat_of(pid)
    return stat.state if stat else "gone"


def test_a_live_process_shows_its_functions_and_natively_what_they_call(
    target: "subprocess.Popen[str]",
) -> None:
    with StackTaker() as taker:
        stack, native = taker.stack(target.pid, 60.0), taker.native_stack(target.pid, 60.0)
    assert functions_of(stack) == ["in_here", "<module>"]
    assert "read" in " ".join(functions_of(native)[:4])
    assert [name for name in functions_of(native) if name == "in_here"]
    assert state_of(target.pid) == "S"


def test_a_stopped_process_shows_its_functions_and_stays_stopped(target: "subprocess.Popen[str]") -> None:
    os.kill(target.pid, signal.SIGSTOP)
    until(lambda: state_of(target.pid) == "T", "the process to stop")
    with StackTaker() as taker:
        assert functions_of(taker.stack(target.pid, 60.0)) == ["in_here", "<module>"]
        native = taker.native_stack(target.pid, 60.0)
    assert isinstance(native, Unseen)
    assert "stopped" in native.reason
    assert state_of(target.pid) == "T"


def test_a_py_spy_that_is_killed_while_it_holds_the_process_leaves_it_running(
    target: "subprocess.Popen[str]",
) -> None:
    program = spying.find_py_spy()
    assert program
    held = 0
    for _ in range(20):
        with subprocess.Popen(
            [program, "dump", "--native", "--pid", str(target.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as spy:
            while spy.poll() is None and not spying._is_traced(target.pid):
                pass
            held += spying._is_traced(target.pid)
            spy.kill()
        until(lambda: state_of(target.pid) == "S", "the process to wait again")
    assert held
    assert target.stdin
    target.stdin.close()
    assert target.wait(100) == 0


def fake(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of py-spy."""
    program = folder / "py-spy"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(spying, "find_py_spy", lambda: str(program))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exec sleep 1000", "py-spy gave no answer in time"),
        ("echo 'Error: no luck' >&2; exit 1", "py-spy failed: no luck"),
        ("echo '[]'", "py-spy failed: its answer"),
        (
            "echo 'Permission Denied: Try running again with elevated permissions' >&2; exit 1",
            "no permission",
        ),
        ("echo 'Error: Failed to find python version from target process' >&2; exit 1", "finds no Python"),
    ],
)
def test_a_py_spy_without_an_answer_is_a_reason_and_not_an_empty_stack(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: "subprocess.Popen[str]"
) -> None:
    fake(tmp_path, text, monkeypatch)
    with StackTaker() as taker:
        answer = taker.stack(target.pid, 1.0)
    assert isinstance(answer, Unseen)
    assert reason in answer.reason


def test_a_host_without_py_spy_is_told_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with StackTaker() as taker:
        answer = taker.stack(os.getpid(), 1.0)
    assert answer == Unseen(source="stack", reason="py-spy is not installed; pip install py-spy")


def test_a_process_that_has_ended_has_no_stack() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with StackTaker() as taker:
        answer = taker.stack(process.pid, 60.0)
    assert answer == Unseen(source="stack", reason="the process has ended")


def test_what_still_runs_at_the_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: "subprocess.Popen[str]"
) -> None:
    monkeypatch.setattr(spying, "_PATIENCE_S", 0.1)
    fake(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 1000", monkeypatch)
    with StackTaker() as taker:
        (answer,) = in_parallel(lambda pid: taker.stack(pid, 500.0), (target.pid,), 1)
        until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip()), "a start")
    assert isinstance(answer.result(100), Unseen)
    assert stat_of(int((tmp_path / "pid").read_text())) is None
    assert isinstance(taker.stack(target.pid, 500.0), Unseen)
