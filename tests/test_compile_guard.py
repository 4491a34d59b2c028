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
from typing import Any

import pytest

from runner.errors import InputError
from runner.probes import block_stack
from runner.probes.compile_guard import Builder, Stall, processes, safe_compile
from runner.probes.compile_guard.cache import folder_bytes, merge
from runner.probes.compile_guard.spec import Mode, Spec, reference, resolve
from runner.probes.compile_guard.stacks import Look, culprit, frames_of, judge

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
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale + (1 if torch.compiler.is_compiling() else 0)

    return Lies(), (torch.ones(4),)


def a_look(at_s: float, **changes: Any) -> Look:
    return replace(Look(at_s, at_s, 9, ("a.py:f",), frozenset()), **changes)


def test_a_busy_compile_whose_frames_stand_still_is_stuck() -> None:
    assert judge(a_look(1), a_look(2)) == "stuck-busy"


def test_a_compile_that_uses_no_cpu_is_stuck_waiting() -> None:
    assert judge(a_look(1), a_look(2, cpu_s=1.0)) == "stuck-idle"


@pytest.mark.parametrize(
    "change",
    [{"cache_bytes": 10}, {"frames": ("a.py:g",)}, {"others": frozenset({(7, "cc1plus")})}],
    ids=["cache grew", "frames moved", "a compiler came"],
)
def test_a_compile_that_moves_on_is_slow(change: dict[str, Any]) -> None:
    assert judge(a_look(1), a_look(2, **change)) == "slow"


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
    assert culprit(mine) == "tests/test_compile_guard.py:test_frames_are_those_of_the_thread_asked_for"
    assert frames_of(dump, None) == ()


def test_a_builder_that_no_child_can_import_is_refused() -> None:
    with pytest.raises(InputError, match="top-level function"):
        reference(lambda: (None, ()))


def test_builder_arguments_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be JSON"):
        Spec("m:f", {"dtype": object()}, "whole", stall=False, search=()).write(tmp_path / "spec.json")


def test_a_builder_is_found_by_module_and_by_script(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "def build():\n    return 'model', ()\nif __name__ == '__main__':\n    raise SystemExit\n"
    )
    assert resolve(f"{script}:build")() == ("model", ())
    assert resolve(reference(block_stack.build)) is block_stack.build


@pytest.mark.parametrize(("mode", "deadline_s"), [("fast", 1.0), ("smart", 0.0), ("smart", float("nan"))])
def test_bad_arguments_of_the_guard_are_refused(mode: str, deadline_s: float, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        safe_compile(block_stack.build, STACK, mode=mode, deadline_s=deadline_s, folder=tmp_path)


def test_a_stall_on_the_whole_model_leaves_the_blocks_alone() -> None:
    assert [Stall.WHOLE_MODEL.hits(mode) for mode in Mode] == [True, False, False]
    assert [Stall.EVERY_GRAPH.hits(mode) for mode in Mode] == [True, True, False]


def test_processes_that_left_the_group_and_ignore_sigterm_are_ended() -> None:
    token = uuid.uuid4().hex
    script = "trap '' TERM; setsid bash -c \"trap '' TERM; echo up; while :; do sleep 1; done\" & wait"
    leader = subprocess.Popen(
        ["bash", "-c", script],
        env=os.environ | {processes.TOKEN: token},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"up\n"
        assert len(processes.living(token)) >= 2
        assert processes.end(leader.pid, token) >= 2
    assert processes.living(token) == []


def test_another_guards_processes_are_let_live() -> None:
    with subprocess.Popen(["sleep", "60"], env=os.environ | {processes.TOKEN: "a" * 32}) as other:
        assert processes.end(other.pid, "b" * 32) == 0
        assert other.poll() is None
        other.kill()


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
def test_a_compile_that_dies_and_one_that_raises_fall_through_to_eager(tmp_path: Path) -> None:
    found = guarded(dies_when_compiled, tmp_path)
    assert [attempt.outcome for attempt in found.attempts] == ["died", "raised", "finished"]
    assert found.effective is Mode.EAGER
    assert found.fallback_asked
    assert "whole: the child was killed by SIGSEGV while compiling" in found.reason
    assert "per-block: InputError: Dies has no nn.ModuleList" in found.reason
    assert all(attempt.left == 0 for attempt in found.attempts)


@pytest.mark.system
def test_a_compiled_model_that_answers_wrongly_is_not_used(tmp_path: Path) -> None:
    found = guarded(lies_when_compiled, tmp_path, mode="whole")
    assert found.effective is None
    assert found.attempts[0].outcome == "wrong"
    assert "differs from eager's by 1" in found.reason
    with pytest.raises(InputError, match="nothing to apply"):
        found.apply(None)


@pytest.mark.system
def test_the_caller_starts_from_the_childs_cache(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        f"""
import torch
from pathlib import Path
from runner.probes import block_stack
from runner.probes.compile_guard import safe_compile

def build(width):
    return block_stack.build(**({STACK!r} | {{"width": width, "blocks": 2}}))

if __name__ == "__main__":
    guarded = safe_compile(build, {{"width": 64}}, mode="per-block", folder=Path({str(tmp_path / "kept")!r}))
    model, inputs = build(width=64)
    with torch.no_grad():
        expected = model(*inputs)
        answer = guarded.apply(model)(*inputs)
    print(guarded.effective, guarded.cache_counts(), torch.allclose(answer, expected, atol=1e-4))
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "own"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["per-block (1, 0) True"], done.stderr
