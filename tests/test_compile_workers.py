"""Inductor's pool of compile workers: ready before a compile, counted, and no sign of progress."""

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from torch._inductor import async_compile
from torch.utils import _triton

from runner.probes.compile_guard import Stall, processes, safe_compile, workers
from runner.probes.compile_guard.figures import cpu_seconds
from runner.probes.repro import block_stack

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


def test_a_pool_of_workers_is_ready_before_the_compile_and_starts_only_where_triton_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakePool()
    monkeypatch.setattr(async_compile, "AsyncCompile", pool)
    monkeypatch.setattr(async_compile, "maybe_warm_pool", pool.warm)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: False)
    assert workers.start(gpu=True)() == 0.0
    assert pool.done == []
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    workers.start(gpu=True)()
    assert pool.done == ["warm", "wakeup", "wait"]


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("SubprocPool closed")])
def test_a_pool_that_is_never_ready_is_left_to_the_compile(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool(error)
    monkeypatch.setattr(async_compile, "AsyncCompile", pool)
    monkeypatch.setattr(async_compile, "maybe_warm_pool", pool.warm)
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
        self.process_pool = functools.cache(lambda: "pool")

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
