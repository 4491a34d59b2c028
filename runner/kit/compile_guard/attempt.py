"""One rung of the ladder: a monitored child process that compiles and runs the model, killed at its deadline."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.base.places import running_package
from runner.kit.children import without_launch
from runner.kit.compile_guard.cache import folder_bytes, merge
from runner.kit.compile_guard.command import last_output, watched_environment
from runner.kit.compile_guard.spec import Spec
from runner.kit.compile_guard.stacks import Verdict, in_words
from runner.kit.compile_guard.watch import CACHE, EVENTS, Sample, TimeFor, Watch, watched
from runner.kit.compile_options import Mode

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
    (folder / CACHE).mkdir(parents=True)
    (folder / EVENTS).touch()
    if start_from is not None:
        merge(start_from, folder / CACHE)
    spec.write(folder / "spec.json")
    words = [sys.executable, "-m", "runner.kit.compile_guard.child", str(folder), str(os.getpid())]
    # The variable that selects a device stays.
    own = without_launch(
        watched_environment(folder, {"PYTHONPATH": str(running_package().parent)}),
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    )
    watch = watched(words, own, folder, time_for)
    watch.listen()
    outcome, reason = _outcome(watch, tolerance)
    facts = watch.facts
    compile_s, compile_cpu_s = facts.get("compile_s"), facts.get("compile_cpu_s")
    share = compile_cpu_s / compile_s if compile_s and compile_cpu_s is not None else None
    if outcome == "deadline" and watch.looks:
        compile_s, share = watch.looks[-1].at_s, watch.cpu_share
    sampled = [sample.rss_bytes for sample in watch.samples]
    return Attempt(
        mode=Mode(spec.mode),
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
        cache_bytes=folder_bytes(watch.folder / CACHE),
        ended=watch.cleared.ended,
        left=len(watch.cleared.left),
        samples=tuple(watch.samples),
        facts=dict(facts),
        folder=watch.folder,
    )


def _outcome(watch: Watch, tolerance: float) -> tuple[Outcome, str | None]:
    facts = watch.facts
    if watch.late:
        return "deadline", _why_deadline(watch)
    if watch.stage == "raised":
        if facts["memory"]:
            return "memory", f"ran out of memory: {facts['error']}"
        return "raised", str(facts["error"])
    if watch.stage != "finished":
        status = watch.status or 0
        how = (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        )
        if status == -signal.SIGKILL:
            how += " (possibly by the kernel's OOM killer)"
        return "died", f"the child {how} at stage {watch.stage}; {last_output(watch.folder)}"
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
    spent = f"{last.at_s:.1f} s" if last else "its deadline"
    return f"did not finish within {spent}, {in_words(watch.verdict, watch.where)}"
