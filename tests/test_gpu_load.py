"""The load beside a watch: its processes are awaited, and one that ends is an error. Here without a GPU."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner.base.errors import RunbookError
from runner.base.processes import stat_of
from runner.kit import gpu_load
from runner.kit.children import Child
from runner.kit.gpu_load import await_busy, loaded_gpus, require_running
from runner.kit.probe import NotApplicableError


def children(stack: ExitStack, folder: Path, *programs: str) -> tuple[Sequence[Child], Sequence[Path]]:
    outputs = [folder / str(number) for number in range(len(programs))]
    started = [
        stack.enter_context(Child([sys.executable, "-c", program], os.environ, output, grace_s=0.0))
        for program, output in zip(programs, outputs, strict=True)
    ]
    return started, outputs


BUSY = "print('busy', flush=True); import signal; signal.pause()"


def test_the_load_is_there_when_every_process_says_so_and_gone_afterwards(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started, outputs = children(stack, tmp_path, BUSY, BUSY)
        await_busy(started, outputs)
        pids = [one.pid for one in started]
        assert all(one.status is None for one in started)
    assert all(stat_of(pid) is None for pid in pids)


def test_a_process_that_ends_is_named_with_its_last_line(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started, outputs = children(stack, tmp_path, BUSY, "raise SystemExit('CUDA error: out of memory')")
        with pytest.raises(RunbookError, match=r"^the load on GPU 1 ended: CUDA error: out of memory$"):
            await_busy(started, outputs)


def test_a_process_that_ends_during_the_watch_is_an_error(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started, outputs = children(stack, tmp_path, "print('busy')")
        assert started[0].wait(60)
        with pytest.raises(RunbookError, match=r"^the load on GPU 0 ended: busy$"):
            require_running(started, outputs)


def test_a_load_that_never_starts_is_given_up(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started, outputs = children(stack, tmp_path, "import signal; signal.pause()")
        with pytest.raises(RunbookError, match=r"^the load did not start within 0.2 s"):
            await_busy(started, outputs, 0.2)


def test_a_host_without_a_gpu_has_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_load, "usable_gpus", lambda: 0)
    with pytest.raises(NotApplicableError, match=r"needs a GPU"), loaded_gpus():
        pass
