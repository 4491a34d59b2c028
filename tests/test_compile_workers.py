"""Inductor's pool of compile workers: ready before a compile, counted, and no sign of progress."""

import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from torch._inductor import async_compile
from torch._inductor.compile_worker import subproc_pool
from torch.utils import _triton

from runner.kit.compile_guard import Stall, dumps, processes, safe_compile, workers
from runner.kit.compile_guard.figures import cpu_seconds
from runner.kit.compile_guard.watch import Watch
from runner.kit.repro import block_stack

STACK = {"blocks": 1, "width": 32, "heads": 2, "hidden": 64, "tokens": 8, "device": "cpu"}
# Stands for a compile worker: Inductor's are known by the path of the program that they run.
A_WORKER = """
import subprocess, sys, time
# Work whose CPU time is lost where children that were waited for do not count, as ptxas does in a compile worker.
busy = "import time; all(iter(lambda: time.process_time() < 0.5, False))"
subprocess.run([sys.executable, "-c", busy], check=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[psutil.Process]:
    program = tmp_path / "torch/_inductor/compile_worker/__main__.py"
    program.parent.mkdir(parents=True)
    program.write_text(A_WORKER, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        yield psutil.Process(started.pid)
        started.kill()


def test_a_compile_worker_is_counted_and_is_none_of_the_compilers(worker: psutil.Process) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        found = processes.usage(psutil.Process())
        other.kill()
    assert found is not None
    assert (other.pid, "sleep") in found.others
    assert worker.pid not in {pid for pid, _ in found.others}
    assert found.workers == 1


def test_the_cpu_time_of_a_worker_includes_the_assemblers_that_it_waited_for(worker: psutil.Process) -> None:
    times = worker.cpu_times()
    assert processes.cpu_of(worker) >= times.user + times.system + 0.4
    assert cpu_seconds() >= 0.5


A_COMPILE = """
import os, subprocess, sys
def compiles(pool):
    pool.wait()
compiles(subprocess.Popen([sys.executable, os.environ["POOL"]]))
"""


def test_what_compile_workers_do_is_dumped_and_is_not_taken_for_progress(tmp_path: Path) -> None:
    program, stacks = tmp_path / "torch/_inductor/compile_worker/__main__.py", tmp_path / "stacks"
    program.parent.mkdir(parents=True)
    program.write_text("import time\ndef idles():\n    time.sleep(600)\nidles()\n", encoding="utf-8")
    (tmp_path / "cache").mkdir()
    # Named where it is not part of the command line, by which workers are known.
    environment = os.environ | dumps.dumping_environment(stacks) | {"POOL": str(program)}
    with subprocess.Popen([sys.executable, "-c", A_COMPILE], env=environment) as root:
        watch = Watch(tmp_path, psutil.Process(root.pid), time.monotonic())
        try:
            # The functions are entered some time after the handlers are installed.
            while not all(f":{name}" in _dumped(watch, stacks) for name in ("compiles", "idles")):
                assert root.poll() is None
            watch.look()
        finally:
            for child in watch.root.children():
                child.kill()
    (seen,) = watch.looks
    assert any(frame.endswith(":compiles") for frame in seen.frames)
    assert not any("compile_worker" in frame for frame in seen.frames)


def test_a_process_that_dumps_its_stacks_late_is_awaited_and_one_with_a_handler_of_its_own_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dumps, "_has_handler", lambda pid: True)
    monkeypatch.setattr(dumps, "_since", lambda path, offset: f"{path.name} from {offset}")
    late, done = {"1.txt": 90, "2.txt": 10}, {"1.txt": 90, "2.txt": 70}
    sizes = iter([{"1.txt": 10, "2.txt": 10}, late, late, late, done, done])
    monkeypatch.setattr(dumps, "_sizes", lambda folder: next(sizes))
    asked = [SimpleNamespace(pid=pid, send_signal=lambda number: None) for pid in (1, 2, 3)]
    told = dumps.ask(cast("list[psutil.Process]", asked), tmp_path)
    assert told == {"1.txt": "1.txt from 10", "2.txt": "2.txt from 10"}
    assert next(sizes, None) is None, "and not a moment longer"


def _dumped(watch: Watch, stacks: Path) -> str:
    told = dumps.ask([watch.root, *watch.root.children()], stacks)
    return "\n".join(dumps.main_frames(told, stacks)) + "\n"


def test_a_pool_of_workers_is_ready_before_the_compile_and_starts_only_where_triton_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakePool().installed(monkeypatch)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: False)
    assert workers.start(gpu=True)() == 0.0
    assert pool.done == []
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    workers.start(gpu=True)()
    assert pool.done == ["warm", "wakeup", "wait"]


def test_a_pool_begins_before_the_compiler_is_imported_and_is_the_same_that_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakePool().installed(monkeypatch)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: False)
    workers.begin()
    assert pool.done == []
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    workers.begin()
    workers.start(gpu=True)()
    assert (pool.done, pool.started) == (["warm", "warm", "wakeup", "wait"], 1)


# In a process of its own: in this one, the compiler is imported.
BEGINS = """
import sys
from runner.kit.compile_guard import workers
workers.begin()
print("torch._inductor.async_compile" in sys.modules, "torch._inductor.compile_fx" in sys.modules)
"""


def test_to_begin_a_pool_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", BEGINS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        RuntimeError("SubprocPool closed"),
        subproc_pool.SubprocException("fork failed"),
        BrokenPipeError(),
    ],
)
def test_a_pool_that_is_never_ready_is_left_to_the_compile(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool(error).installed(monkeypatch)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    assert workers.start(gpu=False)() >= 0.0
    assert pool.done == ["warm", "wait"]


def test_no_pool_is_waited_for_where_the_environment_forbids_to_warm_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakePool()
    monkeypatch.setattr(async_compile, "AsyncCompile", pool)
    monkeypatch.setattr(async_compile, "maybe_warm_pool", lambda: None)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    assert workers.start(gpu=False)() == 0.0
    assert pool.done == []


class FakePool:
    """Inductor's pool as far as `workers` uses it; torch's own needs Triton."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self._error = error
        # As torch's, cached, so that its statistics say whether there is a pool.
        self.process_pool = functools.cache(self._begun)
        self.started = 0

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> "FakePool":
        """This pool, in place of Inductor's."""
        monkeypatch.setattr(async_compile, "AsyncCompile", self)
        monkeypatch.setattr(async_compile, "maybe_warm_pool", self.warm)
        return self

    def _begun(self) -> str:
        self.started += 1
        return "pool"

    def warm(self) -> None:
        self.done.append("warm")
        self.process_pool()

    def wakeup(self) -> None:
        self.done.append("wakeup")

    def wait_pool_ready(self, timeout: float) -> None:
        assert timeout == workers.READY_S
        self.done.append("wait")
        if self._error:
            raise self._error


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the pool needs Triton")
@pytest.mark.system
def test_with_triton_a_stall_on_the_whole_model_is_stuck_although_a_pool_was_started(tmp_path: Path) -> None:
    found = safe_compile(
        block_stack.build, STACK, mode="whole", deadline_s=10, folder=tmp_path, stall=Stall.EVERY_GRAPH
    )
    (attempt,) = found.attempts
    assert attempt.verdict == "stuck-busy"
    assert attempt.facts["workers_s"] > 0


def test_the_names_of_inductors_pool_are_those_of_this_torch() -> None:
    # Where one is missing, the pool would start inside the compile, without an error.
    for name in ("process_pool", "wait_pool_ready", "wakeup"):
        assert callable(getattr(async_compile.AsyncCompile, name))
    assert callable(async_compile.maybe_warm_pool)
    assert async_compile.AsyncCompile.process_pool.cache_info().currsize == 0
