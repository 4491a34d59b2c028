"""One rung of the ladder: a monitored child process that compiles and runs the model, killed at its deadline."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from runner.base.places import running_package
from runner.base.programs import kill
from runner.kit.compile_guard import processes
from runner.kit.compile_guard.cache import folder_bytes, merge
from runner.kit.compile_guard.command import OUTPUT, environment
from runner.kit.compile_guard.spec import Mode, Spec
from runner.kit.compile_guard.stacks import Verdict, in_words, innermost_frame
from runner.kit.compile_guard.watch import Sample, TimeFor, Watch, watch_child
from runner.record.last_words import last_words_in
from runner.record.redaction.redact import host_secrets

Outcome = Literal["finished", "deadline", "raised", "memory", "died", "wrong"]


@dataclass(frozen=True)
class Attempt:
    """The result of one rung.

    Attributes:
        outcome: `finished`: it compiled and its output equals eager's; `deadline`: killed at the deadline;
            `raised`: the compiler or the model raised; `memory`: it raised because it ran out of memory; `died`:
            killed by a signal, or exited without a message;
            `wrong`: it compiled, but its output differs from eager's by more than the tolerance.
        reason: one sentence, None when finished.
        verdict: for `deadline`: `slow`, `stuck-busy` or `stuck-idle`; None if unknown.
        start_s: seconds until the compile began, or until the end if it never did: importing torch, building the model,
            running it in eager, and waiting for the compile workers.
        compile_began: whether the compile began.
        compile_s: seconds of the compile with its first forward; at the deadline, the time that it had.
        cpu_share: CPU seconds per second of the compile, all its processes together; 1 is one fully busy core.
        ended: processes alive when the child was killed.
        left: processes of this attempt alive after it; anything but 0 is a bug in the guard.
        facts: what the child reported: versions, parameters, cache hits, graph breaks, difference.
        folder: events.jsonl, output.log, stacks/ (a file for each Python process), trace/ and cache/.
    """

    mode: Mode
    outcome: Outcome
    reason: str | None
    verdict: Verdict | None
    start_s: float
    compile_began: bool
    compile_s: float | None
    compile_cpu_s: float | None
    cpu_share: float | None
    wall_s: float
    peak_rss_bytes: int
    cache_bytes: int
    ended: int
    left: int
    samples: tuple[Sample, ...]
    facts: Mapping[str, Any]
    folder: Path

    @property
    def compile_ended(self) -> bool:
        """Whether the compile finished, with any output."""
        return self.outcome in {"finished", "wrong"}

    @property
    def answered_in_eager(self) -> bool:
        """Whether the whole model ran in eager mode, as every child does before it compiles."""
        return "build_s" in self.facts and not self.facts["alone"]

    @property
    def graph_breaks(self) -> int | None:
        """Graph breaks of the compile; None if it did not finish."""
        return self.facts.get("graph_breaks")

    @property
    def recompiles(self) -> int | None:
        """Compiles of code that had been compiled before; None if the compile did not finish."""
        return self.facts.get("recompiles")


def attempt(
    spec: Spec, folder: Path, *, time_for: TimeFor, tolerance: float, start_from: Path | None = None
) -> Attempt:
    """Compile and run in a child with its own session; no process of it is left running.

    Args:
        spec: what to build and how to compile it.
        folder: an empty folder for the child's files.
        time_for: time limits of the child's start, and of the compile with its first forward.
        tolerance: largest allowed difference from eager, relative to the largest magnitude of eager's output.
        start_from: a compile cache to start from; None for an empty one.
    """
    (folder / "cache").mkdir(parents=True)
    (folder / "events.jsonl").touch()
    if start_from is not None:
        merge(start_from, folder / "cache")
    spec.write(folder / "spec.json")
    token = uuid.uuid4().hex
    began = time.monotonic()
    with (folder / OUTPUT).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "runner.kit.compile_guard.child", str(folder), str(os.getpid())],
            env=_environment(token, folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = 0
        try:
            watch = Watch(folder, psutil.Process(child.pid), began)
            timed_out = watch_child(watch, child, time_for)
        finally:
            ended = processes.end(child.pid, token)
            kill(child)
    watch.listen()
    outcome, reason = _outcome(watch, child.returncode, timed_out, tolerance)
    left = len(processes.living(token))
    return _conclude(watch, Mode(spec.mode), outcome=outcome, reason=reason, ended=ended, left=left)


def _environment(token: str, folder: Path) -> dict[str, str]:
    root = str(running_package().parent)
    complete = environment(token, folder, {"PYTHONPATH": root})
    return {name: value for name, value in complete.items() if not _of_launch(name)}


def _of_launch(name: str) -> bool:
    """Whether a variable would let a child join its parent's ranks; LOCAL_RANK, which selects a device, stays."""
    return name in {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} or name.startswith("TORCHELASTIC_")


def _conclude(
    watch: Watch, mode: Mode, *, outcome: Outcome, reason: str | None, ended: int, left: int
) -> Attempt:
    facts = watch.facts
    compile_s, compile_cpu_s = facts.get("compile_s"), facts.get("compile_cpu_s")
    share = compile_cpu_s / compile_s if compile_s and compile_cpu_s is not None else None
    if outcome == "deadline" and watch.looks:
        compile_s, share = watch.looks[-1].at_s, watch.cpu_share
    sampled = [sample.rss_bytes for sample in watch.samples]
    return Attempt(
        mode=mode,
        outcome=outcome,
        reason=reason,
        verdict=watch.verdict if outcome == "deadline" else None,
        start_s=watch.start_s,
        compile_began=watch.compile_at is not None,
        compile_s=compile_s,
        compile_cpu_s=compile_cpu_s,
        cpu_share=share,
        wall_s=watch.now(),
        peak_rss_bytes=max([facts.get("peak_rss_bytes", 0), *sampled]),
        cache_bytes=folder_bytes(watch.folder / "cache"),
        ended=ended,
        left=left,
        samples=tuple(watch.samples),
        facts=dict(facts),
        folder=watch.folder,
    )


def _outcome(watch: Watch, status: int, timed_out: bool, tolerance: float) -> tuple[Outcome, str | None]:
    facts = watch.facts
    if timed_out:
        return "deadline", _why_deadline(watch)
    if watch.stage == "raised":
        if facts["memory"]:
            return "memory", f"ran out of memory: {facts['error']}"
        return "raised", str(facts["error"])
    if watch.stage != "finished":
        how = (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        )
        if status == -signal.SIGKILL:
            how += " (possibly by the kernel's OOM killer)"
        words = last_words_in(watch.folder / OUTPUT, host_secrets())
        said = f"last output: {words}" if words else "no output"
        return "died", f"the child {how} at stage {watch.stage}; {said}"
    difference = facts.get("difference")
    if difference is None:
        return "wrong", "the model's output is not finite"
    if difference > tolerance:
        return (
            "wrong",
            f"the compiled output differs from eager's by {difference:.2g}, tolerance {tolerance:g}",
        )
    return "finished", None


def _why_deadline(watch: Watch) -> str:
    if watch.stage != "compiling":
        return f"the compile had not started after {watch.now():.0f} s: still at stage {watch.stage!r}"
    last = watch.looks[-1] if watch.looks else None
    where = innermost_frame(last.frames) if last else None
    told = in_words(watch.verdict)
    spent = f"{last.at_s:.1f} s" if last else "its deadline"
    return f"did not finish within {spent}, {told}{f' (in {where})' if where else ''}"
