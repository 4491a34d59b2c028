import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError, RankError
from runner.base.processes import with_mark
from runner.kit.compile_guard import Builder, Guarded, Stall, dumps, ladder, safe_compile
from runner.kit.compile_guard.agreement import peers
from runner.kit.compile_guard.blocks import lay_out
from runner.kit.compile_guard.budget import LEAST_S, allotment, worth_trying
from runner.kit.compile_guard.cache import folder_bytes, merge
from runner.kit.compile_guard.child import in_one_line
from runner.kit.compile_guard.spec import Spec, builder_name, resolve
from runner.kit.compile_guard.stacks import Observation, frames_of, innermost_frame, slow_or_stuck
from runner.kit.compile_guard.watch import TimeFor
from runner.kit.compile_options import Mode
from runner.kit.repro import block_stack
from runner.kit.repro.growing_models import chain

STACK = {"blocks": 1, "width": 32, "heads": 2, "hidden": 64, "tokens": 8, "device": "cpu"}


def dies_when_compiled() -> tuple[Any, tuple[Any, ...]]:
    """Build a model that takes its process down as soon as it is compiled."""
    import torch  # noqa: PLC0415 - only the child needs it

    class Dies(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_compiling():
                os.kill(os.getpid(), signal.SIGSEGV)
            return x * self.scale

    return Dies(), (torch.ones(4),)


def lies_when_compiled() -> tuple[Any, tuple[Any, ...]]:
    """Build a model whose compiled answer is not its own."""
    import torch  # noqa: PLC0415 - only the child needs it

    class Lies(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # Views alone: there is no kernel to compile, so the test is quick.
            return x[0] if torch.compiler.is_compiling() else x[1]

    return Lies(), (torch.arange(2.0).reshape(2, 1),)


def a_look(at_s: float, **changes: Any) -> Observation:
    return replace(Observation(at_s, at_s, 9, ("a.py:f",), frozenset()), **changes)


def test_a_busy_compile_whose_frames_stand_still_is_stuck() -> None:
    assert slow_or_stuck(a_look(1), a_look(2)) == "stuck-busy"


def test_a_compile_that_uses_no_cpu_is_stuck_waiting() -> None:
    assert slow_or_stuck(a_look(1), a_look(2, cpu_s=1.0)) == "stuck-idle"


@pytest.mark.parametrize(
    "change",
    [{"cache_bytes": 10}, {"frames": ("a.py:g",)}, {"others": frozenset({(7, "cc1plus")})}],
    ids=["cache grew", "frames moved", "a compiler came"],
)
def test_a_compile_that_moves_on_is_slow(change: dict[str, Any]) -> None:
    assert slow_or_stuck(a_look(1), a_look(2, **change)) == "slow"


def test_frames_are_those_of_the_thread_asked_for() -> None:
    ready, done = threading.Event(), threading.Event()

    def waits_elsewhere() -> None:
        ready.set()
        done.wait()

    other = threading.Thread(target=waits_elsewhere)
    other.start()
    ready.wait()
    try:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            dump = file.read()
    finally:
        done.set()
        other.join()
    mine, its = frames_of(dump, threading.get_ident()), frames_of(dump, other.ident)
    assert mine[0].endswith(":test_frames_are_those_of_the_thread_asked_for")
    assert any(frame.endswith(":waits_elsewhere") for frame in its)
    assert not any(frame.endswith(":waits_elsewhere") for frame in mine)
    assert (
        innermost_frame(mine) == "tests/test_compile_guard.py:test_frames_are_those_of_the_thread_asked_for"
    )
    assert frames_of(dump, None) == ()


def test_a_builder_that_no_child_can_import_is_refused() -> None:
    with pytest.raises(InputError, match="top-level function"):
        builder_name(lambda: (None, ()))


def test_builder_arguments_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be JSON"):
        Spec("m:f", {"dtype": object()}, "whole", stall=False, search=()).write(tmp_path / "spec.json")


def test_a_builder_is_found_by_module_and_by_script(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "def build():\n    return 'model', ()\nif __name__ == '__main__':\n    raise SystemExit\n"
    )
    assert resolve(f"{script}:build")() == ("model", ())
    assert resolve(builder_name(block_stack.build)) is block_stack.build


@pytest.mark.parametrize(("mode", "deadline_s"), [("fast", 1.0), ("smart", 0.0), ("smart", float("nan"))])
def test_bad_arguments_of_the_guard_are_refused(mode: str, deadline_s: float, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        safe_compile(block_stack.build, STACK, mode=mode, deadline_s=deadline_s, folder=tmp_path)


def test_a_stall_on_the_whole_model_leaves_the_blocks_alone() -> None:
    assert [Stall.WHOLE_MODEL.hits(mode) for mode in Mode] == [True, False, False, False]
    assert [Stall.EVERY_GRAPH.hits(mode) for mode in Mode] == [True, True, True, False]


@given(left_s=st.floats(-100, 5000), start_s=st.floats(0, 100), later=st.integers(0, 2))
def test_a_rung_leaves_half_to_the_next_ones_only_where_they_can_use_it(
    left_s: float, start_s: float, later: int
) -> None:
    given_s = allotment(left_s, start_s, later)
    assert given_s >= LEAST_S
    if given_s > LEAST_S:
        assert given_s == left_s or worth_trying(left_s - given_s, start_s)


def test_no_rung_starts_that_could_not_compile() -> None:
    assert not worth_trying(left_s=5.0, start_s=3.5)
    assert worth_trying(left_s=6.0, start_s=3.5)


class Slow:
    """Children that take a time to start and never end their compile, on a clock of their own."""

    def __init__(self, start_s: float, *, compiles: bool = True) -> None:
        self.now, self.given, self.limits = 1000.0, list[float](), list[float]()
        self._start_s, self._compiles = start_s, compiles

    def monotonic(self) -> float:
        return self.now

    def attempt(self, spec: Spec, folder: Path, *, time_for: TimeFor, **_: Any) -> Any:
        self.limits.append(time_for.start)
        if not self._compiles:
            self.now += time_for.start
            return SimpleNamespace(start_s=time_for.start, reason="never started", answered_in_eager=True)
        self.now += self._start_s
        self.given.append(time_for.compile(self._start_s))
        self.now += self.given[-1]
        return SimpleNamespace(start_s=self._start_s, reason="too slow", answered_in_eager=True)

    def guard(self, monkeypatch: pytest.MonkeyPatch, folder: Path, deadline_s: float) -> Guarded:
        monkeypatch.setattr(ladder, "time", self)
        monkeypatch.setattr(ladder, "attempt", self.attempt)
        return safe_compile(block_stack.build, STACK, deadline_s=deadline_s, folder=folder)


@pytest.mark.parametrize(
    ("start_s", "given"),
    [(20.0, [10.0]), (1.0, [5.0, 4.0])],
    ids=["a GPU node that imports for 20 s", "a quick host"],
)
def test_the_deadline_counts_from_the_first_compile_and_later_starts_are_part_of_it(
    start_s: float, given: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Slow(start_s)
    found = slow.guard(monkeypatch, tmp_path, deadline_s=10.0)
    assert slow.given[: len(given)] == given
    assert found.effective is Mode.EAGER
    assert slow.now <= 1000 + start_s + 10 + LEAST_S


def test_a_first_child_that_never_compiles_uses_up_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Slow(0.0, compiles=False)
    found = slow.guard(monkeypatch, tmp_path, deadline_s=300.0)
    assert slow.limits == [300.0]
    assert "per-block: not tried: only 0.0 s left" in (found.reason or "")


def test_a_python_under_the_hook_tells_its_stacks_and_another_program_is_left_alone(tmp_path: Path) -> None:
    environment = dumps.dumping_environment(tmp_path / "stacks")
    code = "def waits():\n    print('up', flush=True)\n    input()\nwaits()"
    with (
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as python,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        assert python.stdout is not None
        assert python.stdout.readline() == b"up\n"
        told = dumps.ask([psutil.Process(python.pid), psutil.Process(other.pid)], tmp_path / "stacks")
        assert other.poll() is None
        other.kill()
        python.kill()
    assert list(told) == [f"{python.pid}.txt"]
    assert dumps.main_frames(told, tmp_path / "stacks")[0] == "<string>:waits"


def test_blocks_are_laid_out_without_the_models_memory() -> None:
    shape = {"blocks": 72, "width": 8192, "heads": 64, "hidden": 28672, "tokens": 8, "device": "cpu"}
    code = (
        "import resource, torch\n"
        "from runner.kit.repro import block_stack\n"
        "from runner.kit.compile_guard import blocks\n"
        "blocks._real_call = lambda *call: call\n"
        f"calls, parameters = blocks.lay_out(lambda: block_stack.build(**{shape}), backward=False)\n"
        "print(len(calls), parameters, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds, parameters, peak_kib = map(int, done.stdout.split())
    # 70e9 parameters are 280 GB in float32; torch itself takes a few hundred MB.
    assert (kinds, parameters) == (1, 70062833664)
    assert peak_kib < 1.5 * 2**20


def a_model_that_hands_a_cache_on() -> tuple[Any, tuple[Any, ...]]:
    """Build a model whose blocks write into a cache that is an object of its own."""
    import torch  # noqa: PLC0415 - only this test needs it

    class Cache:
        def __init__(self) -> None:
            self.seen = [torch.zeros(3)]

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor, *, cache: Cache) -> torch.Tensor:
            cache.seen.append(x)
            return x * self.scale + cache.seen[0]

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Block(), Block()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cache = Cache()
            for layer in self.layers:
                x = layer(x, cache=cache)
            return x

    # Converted as many builders do it, which torch itself cannot do to tensors without memory.
    return Model().to(torch.float64), (torch.ones(3, dtype=torch.float64),)


def test_a_block_alone_is_given_the_cache_that_the_first_of_its_kind_got() -> None:
    ((block, inputs, named),), _ = lay_out(a_model_that_hands_a_cache_on, backward=False)
    assert [tuple(tensor.shape) for tensor in named["cache"].seen] == [(3,)]
    assert str(block.scale.dtype) == "torch.float64"
    assert block(*inputs, **named).shape == inputs[0].shape


def test_a_guard_that_found_nothing_has_nothing_to_apply() -> None:
    with pytest.raises(InputError, match="nothing to apply: it never ended"):
        Guarded("whole", None, "it never ended", ()).apply(None)


def test_stale_launch_variables_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RankError, match=r"WORLD_SIZE=8, but the other ranks cannot be reached.*unset WORLD_SIZE"
    ):
        peers()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert peers().size == 1


def test_a_cache_is_merged_without_touching_what_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path, text in ((source / "ab/k.so", "new"), (source / "cd/l.so", "new"), (target / "ab/k.so", "old")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (source / "cd/l.lock").touch()
    assert merge(source, target) == 1
    assert (target / "ab/k.so").read_text() == "old"
    assert [path.name for path in (target / "cd").iterdir()] == ["l.so"]
    assert folder_bytes(target) == 6


def guarded(build: Builder, folder: Path, **options: Any) -> Any:
    return safe_compile(build, folder=folder, deadline_s=120, **options)


@pytest.mark.system
def test_a_compile_that_dies_falls_through_to_the_eager_answer_it_had_given(tmp_path: Path) -> None:
    found = guarded(dies_when_compiled, tmp_path)
    assert [attempt.outcome for attempt in found.attempts] == ["died", "raised", "died"]
    assert found.effective is Mode.EAGER
    assert found.fallback_asked
    assert "whole: the child was killed by SIGSEGV at stage compiling" in found.reason
    assert "per-block: InputError: Dies has no nn.ModuleList" in found.reason
    assert all(attempt.left == 0 for attempt in found.attempts)
    # Where it died is in its output: every child runs with faulthandler on.
    assert "Segmentation fault" in (found.attempts[0].folder / "output.log").read_text()


@pytest.mark.system
def test_a_compiled_model_that_answers_wrongly_is_not_used(tmp_path: Path) -> None:
    found = guarded(lies_when_compiled, tmp_path)
    assert [attempt.outcome for attempt in found.attempts] == ["wrong", "raised", "wrong"]
    assert found.effective is Mode.EAGER
    assert "whole: the compiled output differs from eager's by 1" in found.reason
    assert found.attempts[2].mode is Mode.ONE_THREAD
    assert found.attempts[2].facts["versions"]["compile_threads"] == 1


@pytest.mark.system
def test_where_the_whole_model_does_not_fit_a_block_compiles_without_it(tmp_path: Path) -> None:
    shape = STACK | {"blocks": 32, "width": 1024, "heads": 8, "hidden": 4096}
    limit = 2**30
    found = safe_compile(block_stack.build, shape, folder=tmp_path, deadline_s=240, memory_bytes=limit)
    assert [attempt.outcome for attempt in found.attempts] == ["memory", "finished"], found.reason
    assert found.effective is Mode.PER_BLOCK
    assert found.reason is not None
    assert "whole: ran out of memory: RuntimeError" in found.reason
    block = found.attempts[1]
    assert block.facts["parameters"] * 4 > 2 * limit
    assert block.peak_rss_bytes < limit
    assert (block.graph_breaks, block.recompiles) == (0, 0)


def chain_with_workers() -> tuple[Any, tuple[Any, ...]]:
    """Build a model that starts Inductor's pool of workers when it is compiled, and then waits for ever."""
    import torch  # noqa: PLC0415 - only the child needs it
    import torch._inductor.config as inductor  # noqa: PLC0415
    from torch._inductor.async_compile import AsyncCompile  # noqa: PLC0415

    class Waits(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    def wait_for_workers(graph: Any) -> None:
        AsyncCompile.warm_pool()
        AsyncCompile.wait_pool_ready()
        threading.Event().wait()

    inductor.pre_grad_custom_pass = wait_for_workers
    return Waits(), (torch.ones(4),)


@pytest.mark.system
def test_inductors_workers_are_found_by_the_runs_id_asked_for_their_stacks_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = uuid.uuid4().hex
    monkeypatch.setenv("RUNBOOK_RUN_ID", run_id)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    seen: set[int] = set()
    found = Guarded("whole", None, None, ())

    def compiles() -> None:
        nonlocal found
        found = safe_compile(chain_with_workers, mode="whole", deadline_s=30, folder=tmp_path)

    guard = threading.Thread(target=compiles)
    guard.start()
    while guard.is_alive():
        seen |= {one.pid for one in with_mark(f"RUNBOOK_RUN_ID={run_id}") if is_worker(one.pid)}
        guard.join(0.1)
    assert len(seen) >= 2, "no worker was seen"
    assert with_mark(f"RUNBOOK_RUN_ID={run_id}") == []
    (attempt,) = found.attempts
    assert (attempt.outcome, attempt.verdict, attempt.left) == ("deadline", "stuck-idle", 0)
    told = {
        int(path.stem) for path in (attempt.folder / "stacks").glob("*.txt") if "File " in path.read_text()
    }
    assert told & seen


def is_worker(pid: int) -> bool:
    try:
        return any("compile_worker" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


@pytest.mark.system
def test_a_compile_that_blows_up_is_called_slow(tmp_path: Path) -> None:
    found = safe_compile(chain, {"turns": 14, "device": "cpu"}, mode="whole", deadline_s=16, folder=tmp_path)
    (attempt,) = found.attempts
    assert (attempt.outcome, attempt.verdict) == ("deadline", "slow")
    assert "slow: it still made progress" in (attempt.reason or "")


@pytest.mark.system
def test_ranks_fall_back_together_and_no_collective_is_left_waiting(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        """
import os, signal, sys
import torch, torch.distributed as dist
from pathlib import Path
from runner.kit.compile_guard import safe_compile

class Fails(torch.nn.Module):
    def forward(self, x):
        if torch.compiler.is_compiling() and os.environ["LOCAL_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSEGV)
        return x.t()  # a view: there is no kernel to compile, so the test is quick

def build():
    return Fails(), (torch.ones(4, 2),)

if __name__ == "__main__":
    rank = os.environ["RANK"]
    guarded = safe_compile(build, deadline_s=90, folder=Path(sys.argv[1]) / rank)
    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    # In one write, or the ranks' lines run into each other.
    os.write(1, f"rank {rank}: {guarded.effective}, {total.item():g}, {guarded.reason}\\n".encode())
    dist.destroy_process_group()
"""
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"),
            *("--nproc-per-node=2", str(script), str(tmp_path / "kept")),
        ],
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))
    assert [line.partition(", whole")[0] for line in said] == ["rank 0: eager, 2", "rank 1: eager, 2"], (
        done.stderr
    )
    assert all("whole: rank 1: " in line for line in said)


@pytest.mark.system
def test_the_caller_starts_from_the_childs_cache_and_hears_of_a_miss(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        f"""
import torch, warnings
from pathlib import Path
from runner.kit.repro import block_stack
from runner.kit.compile_guard import CacheMissWarning, safe_compile

def build(width):
    return block_stack.build(**({STACK!r} | {{"width": width, "blocks": 2}}))

if __name__ == "__main__":
    guarded = safe_compile(build, {{"width": 64}}, mode="per-block", folder=Path({str(tmp_path / "kept")!r}))
    model, inputs = build(width=64)
    with torch.no_grad():
        expected = model(*inputs)
        started = guarded.start(model, *inputs)
        same = torch.allclose(started.answer, expected, atol=1e-4)
        print(guarded.effective, started.cache_hits, started.cache_misses, same)
        other, inputs = build(width=32)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            missed = guarded.start(other, *inputs)
    kinds = [one.category for one in heard]
    print(missed.cache_hits, missed.cache_misses, CacheMissWarning in kinds)
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "own"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["per-block 1 0 True", "0 1 True"], done.stderr


def test_of_a_compilers_output_the_first_error_is_said() -> None:
    output = (
        "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\nx.h:3:10: fatal error: Python.h: No such file"
    )
    assert in_one_line(RuntimeError(output)) == (
        "RuntimeError: C++ compile error: x.h:3:10: fatal error: Python.h: No such file"
    )
    assert in_one_line(ValueError("no\nmore")) == "ValueError: no"
    assert in_one_line(ValueError()) == "ValueError"
