"""One rung of the ladder: a child that compiles and answers, watched, and ended when its time is up."""

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

import runner
from runner.evidence.last_words import last_words_in
from runner.evidence.redact import host_secrets
from runner.probes.compile_guard import processes
from runner.probes.compile_guard.cache import folder_bytes, merge
from runner.probes.compile_guard.command import OUTPUT, environment
from runner.probes.compile_guard.spec import Mode, Spec
from runner.probes.compile_guard.stacks import Verdict, culprit, in_words
from runner.probes.compile_guard.watch import Sample, TimeFor, Watch, watch_child
from runner.programs import kill

Outcome = Literal["finished", "deadline", "raised", "memory", "died", "wrong"]


@dataclass(frozen=True)
class Attempt:
    """How one rung went.

    Attributes:
        outcome: `finished`: it compiled and its answer equals eager's; `deadline`: ended on the deadline;
            `raised`: the compiler or the model raised; `memory`: it raised for want of memory; `died`: killed by a
            signal, or left without a word;
            `wrong`: it compiled, and its answer differs from eager's by more than the tolerance.
        reason: one sentence, None when finished.
        verdict: for `deadline`: `slow`, `stuck-busy` or `stuck-idle`; None where it could not be told.
        start_s: seconds until the compile began, or until the end where it never did.
        compile_s: seconds of the compile with its first forward; on the deadline, how long it was given.
        cpu_share: CPU seconds per second of the compile, all its processes together; 1 is one pegged core.
        ended: processes alive when the child was ended.
        left: processes of this attempt alive after it; anything but 0 is a fault of the guard.
        facts: what the child said of itself: versions, parameters, cache hits, graph breaks, difference.
        folder: events.jsonl, output.log, stacks/ (a file for each Python process), trace/ and cache/.
    """

    mode: Mode
    outcome: Outcome
    reason: str | None
    verdict: Verdict | None
    start_s: float
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
        """Whether the compile came to an end, with whatever answer."""
        return self.outcome in {"finished", "wrong"}

    @property
    def answered_in_eager(self) -> bool:
        """Whether the whole model has answered in eager, which every child has it do before it compiles."""
        return "build_s" in self.facts and not self.facts["alone"]

    @property
    def graph_breaks(self) -> int | None:
        """Graph breaks of the compile; None where it did not end."""
        return self.facts.get("graph_breaks")

    @property
    def recompiles(self) -> int | None:
        """Compiles of code that had been compiled before; None where the compile did not end."""
        return self.facts.get("recompiles")


def attempt(
    spec: Spec, folder: Path, *, time_for: TimeFor, tolerance: float, start_from: Path | None = None
) -> Attempt:
    """Compile and answer in a child of its own session; whatever happens, nothing of it is left running.

    Args:
        spec: what to build and how to compile it.
        folder: an empty folder for what the child leaves.
        time_for: how long the child may take to start, and then for the compile and its first forward.
        tolerance: largest allowed difference from eager, relative to the largest magnitude of eager's answer.
        start_from: a compile cache to start from; from an empty one when None.
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
            [sys.executable, "-m", "runner.probes.compile_guard.child", str(folder), str(os.getpid())],
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
    root = str(Path(runner.__file__).resolve().parents[1])
    complete = environment(token, folder, {"PYTHONPATH": root})
    return {name: value for name, value in complete.items() if not _of_launch(name)}


def _of_launch(name: str) -> bool:
    """Whether a variable would let a child join the ranks of its parent; LOCAL_RANK, which names a device, stays."""
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
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"left with status {status}"
        if status == -signal.SIGKILL:
            how += " (as the kernel does when memory runs out)"
        words = last_words_in(watch.folder / OUTPUT, host_secrets())
        said = f"its last words: {words}" if words else "it printed nothing"
        return "died", f"the child {how} while {watch.stage}; {said}"
    difference = facts.get("difference")
    if difference is None:
        return "wrong", "the model's answer is not finite"
    if difference > tolerance:
        return (
            "wrong",
            f"the compiled answer differs from eager's by {difference:.2g}, allowed is {tolerance:g}",
        )
    return "finished", None


def _why_deadline(watch: Watch) -> str:
    if watch.stage != "compiling":
        return f"no compile within {watch.now():.0f} s of the start: still at stage {watch.stage!r}"
    last = watch.looks[-1] if watch.looks else None
    where = culprit(last.frames) if last else None
    told = in_words(watch.verdict)
    spent = f"{last.at_s:.1f} s" if last else "its deadline"
    return f"did not end within {spent}, {told}{f' (in {where})' if where else ''}"
