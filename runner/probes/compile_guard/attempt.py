"""One rung of the ladder: a child that compiles and answers, watched, and ended when its time is up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

import runner
from runner.probes.compile_guard import processes
from runner.probes.compile_guard.spec import Mode, Spec
from runner.probes.compile_guard.stacks import Look, Verdict, culprit, frames_of, judge

Outcome = Literal["finished", "deadline", "raised", "died", "wrong"]

POLL_S = 0.1
SAMPLE_S = 0.5
# A child that has said "finished" and does not leave hangs in its shutdown, a known fault of compile workers.
EXIT_S = 15.0
# Importing torch and building the model is not compiling, but it may hang all the same.
START_S = 600.0
# Stacks are dumped at this share of the deadline and on it; what changed in between tells slow from stuck.
FIRST_LOOK = 0.6
_DUMP_S = 1.0


@dataclass(frozen=True)
class Sample:
    """The child at one moment: seconds since its start, CPU seconds, resident and cache bytes, processes."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    cache_bytes: int
    processes: int


@dataclass(frozen=True)
class Attempt:
    """How one rung went.

    Attributes:
        outcome: `finished`: it compiled and its answer equals eager's; `deadline`: ended on the deadline;
            `raised`: the compiler or the model raised; `died`: killed by a signal, or left without a word;
            `wrong`: it compiled, and its answer differs from eager's by more than the tolerance.
        reason: one sentence, None when finished.
        verdict: for `deadline`: `slow`, `stuck-busy` or `stuck-idle`; None where it could not be told.
        compile_s: seconds of the compile with its first forward; on the deadline, how long it was given.
        cpu_share: CPU seconds per second of the compile, all its processes together; 1 is one pegged core.
        ended: processes alive when the child was ended.
        left: processes of this attempt alive after it; anything but 0 is a fault of the guard.
        facts: what the child said of itself: versions, parameters, cache hits, graph breaks, difference.
        folder: events.jsonl, stacks.txt, output.log, cache/ and, when finished, cache_artifacts.bin.
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


@dataclass
class _Watch:
    """What the parent has seen of a child so far."""

    folder: Path
    root: psutil.Process
    began: float
    facts: dict[str, Any] = field(default_factory=dict)
    stage: str = "starting"
    stage_at: float = 0.0
    cpu_at_compile: float = 0.0
    looks: list[Look] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _read: int = 0

    def now(self) -> float:
        return time.monotonic() - self.began

    def listen(self) -> None:
        """Take in the lines that the child has completed since the last time."""
        with (self.folder / "events.jsonl").open("rb") as events:
            events.seek(self._read)
            text = events.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            event = json.loads(line)
            self.stage, self.stage_at = event.pop("event"), self.now()
            if self.stage == "compiling":
                self.cpu_at_compile = event.pop("cpu_s")
            self.facts |= event

    def sample(self) -> processes.Usage | None:
        used = processes.usage(self.root)
        if used is not None:
            cache = processes.folder_bytes(self.folder / "cache")
            self.samples.append(Sample(self.now(), used.cpu_s, used.rss_bytes, cache, len(used.others) + 1))
        return used

    def look(self) -> None:
        """Dump the stacks of the child's threads and note how far it is."""
        used = self.sample()
        if used is None:
            return
        dump = _dump_stacks(self.root, self.folder / "stacks.txt")
        frames = frames_of(dump, self.facts.get("thread"))
        at_s = self.now() - self.stage_at
        self.looks.append(Look(at_s, used.cpu_s, self.samples[-1].cache_bytes, frames, used.others))

    @property
    def verdict(self) -> Verdict | None:
        return judge(self.looks[0], self.looks[-1]) if len(self.looks) > 1 else None


def attempt(spec: Spec, folder: Path, *, deadline_s: float, tolerance: float) -> Attempt:
    """Compile and answer in a child of its own session; whatever happens, nothing of it is left running.

    Args:
        spec: what to build and how to compile it.
        folder: an empty folder for what the child leaves.
        deadline_s: seconds for the compile and its first forward, counted from the start of the compile.
        tolerance: largest allowed difference from eager, relative to the largest magnitude of eager's answer.
    """
    (folder / "cache").mkdir(parents=True)
    (folder / "events.jsonl").touch()
    spec.write(folder / "spec.json")
    token = uuid.uuid4().hex
    began = time.monotonic()
    with (folder / "output.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "runner.probes.compile_guard.child", str(folder)],
            env=_environment(token, folder / "cache"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = 0
        try:
            watch = _Watch(folder, psutil.Process(child.pid), began)
            timed_out = _watch(watch, child, deadline_s)
        finally:
            ended = processes.end(child.pid, token)
            child.wait()
    watch.listen()
    return _conclude(spec, watch, child.returncode, timed_out, ended, len(processes.living(token)), tolerance)


def _environment(token: str, cache: Path) -> dict[str, str]:
    root = str(Path(runner.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        processes.TOKEN: token,
        "TORCHINDUCTOR_CACHE_DIR": str(cache.resolve()),
        "TRITON_CACHE_DIR": str((cache / "triton").resolve()),
        "PYTHONPATH": os.pathsep.join(paths),
        # A compile that is timed must not wait for a cache on another host.
        "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE": "0",
        "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    }


def _watch(watch: _Watch, child: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """Watch until the child is done or its time is up; True where the deadline came first."""
    limits = {"compiling": deadline_s, "finished": EXIT_S, "raised": EXIT_S}
    next_sample = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)
            return False
        watch.listen()
        spent = watch.now() - watch.stage_at
        if spent >= limits.get(watch.stage, START_S):
            if watch.stage in {"finished", "raised"}:
                watch.facts["exit_hung"] = True
                return False
            watch.look()
            return True
        if watch.stage == "compiling" and not watch.looks and spent >= deadline_s * FIRST_LOOK:
            watch.look()
        elif watch.now() >= next_sample:
            watch.sample()
            next_sample = watch.now() + SAMPLE_S


def _dump_stacks(root: psutil.Process, path: Path) -> str:
    """Have the child write its stacks, and return what it wrote; empty where it does not answer the signal."""
    before = path.stat().st_size if path.exists() else 0
    if not path.exists():
        return ""
    with contextlib.suppress(psutil.Error):
        root.send_signal(signal.SIGUSR1)
    size, deadline = before, time.monotonic() + _DUMP_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        grown = path.stat().st_size
        if grown == size > before:
            break
        size = grown
    with path.open("rb") as stacks:
        stacks.seek(before)
        return stacks.read().decode(errors="replace")


def _conclude(
    spec: Spec, watch: _Watch, status: int, timed_out: bool, ended: int, left: int, tolerance: float
) -> Attempt:
    facts, mode = watch.facts, Mode(spec.mode)
    compile_s, compile_cpu_s = facts.get("compile_s"), facts.get("compile_cpu_s")
    share = compile_cpu_s / compile_s if compile_s and compile_cpu_s is not None else None
    if timed_out and watch.stage == "compiling":
        compile_s = watch.looks[-1].at_s if watch.looks else None
        share = _share(watch)
    outcome, reason = _outcome(watch, status, timed_out, tolerance)
    sampled = [sample.rss_bytes for sample in watch.samples]
    return Attempt(
        mode=mode,
        outcome=outcome,
        reason=reason,
        verdict=watch.verdict if outcome == "deadline" else None,
        start_s=facts.get("import_s", 0.0) + facts.get("build_s", 0.0),
        compile_s=compile_s,
        compile_cpu_s=compile_cpu_s,
        cpu_share=share,
        wall_s=watch.now(),
        peak_rss_bytes=max([facts.get("peak_rss_bytes", 0), *sampled]),
        cache_bytes=processes.folder_bytes(watch.folder / "cache"),
        ended=ended,
        left=left,
        samples=tuple(watch.samples),
        facts=dict(facts),
        folder=watch.folder,
    )


def _share(watch: _Watch) -> float | None:
    """CPU seconds per second from the start of the compile to the last look."""
    if not watch.looks or watch.looks[-1].at_s <= 0:
        return None
    last = watch.looks[-1]
    return (last.cpu_s - watch.cpu_at_compile) / last.at_s


def _outcome(watch: _Watch, status: int, timed_out: bool, tolerance: float) -> tuple[Outcome, str | None]:
    facts = watch.facts
    if timed_out:
        return "deadline", _why_deadline(watch)
    if watch.stage == "raised":
        return "raised", str(facts["error"])
    if watch.stage != "finished":
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"left with status {status}"
        return (
            "died",
            f"the child {how} while {watch.stage}; its last words are in {watch.folder.name}/output.log",
        )
    difference = facts.get("difference")
    if difference is None:
        return "wrong", "the compiled model's answer is not finite"
    if difference > tolerance:
        return (
            "wrong",
            f"the compiled answer differs from eager's by {difference:.2g}, allowed is {tolerance:g}",
        )
    return "finished", None


def _why_deadline(watch: _Watch) -> str:
    if watch.stage != "compiling":
        return f"no compile within {START_S:g} s of the start: still at stage {watch.stage!r}"
    last = watch.looks[-1] if watch.looks else None
    where = culprit(last.frames) if last else None
    told = {
        "slow": "slow: it was still moving on",
        "stuck-busy": "stuck: it burned CPU and got nowhere",
        "stuck-idle": "stuck: it waited and got nowhere",
        None: "and could not be told slow from stuck",
    }[watch.verdict]
    spent = f"{last.at_s:.1f} s" if last else "its deadline"
    return f"did not end within {spent}, {told}{f' (in {where})' if where else ''}"
