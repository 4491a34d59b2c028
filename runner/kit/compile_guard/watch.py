"""Monitors a compile from outside: the child's events, the resources of its processes, its stacks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runner.base.processes import Cleared
from runner.kit.children import Child
from runner.kit.compile_guard import dumps, processes
from runner.kit.compile_guard.cache import folder_bytes
from runner.kit.compile_guard.stacks import Observation, Verdict, innermost_frame, slow_or_stuck
from runner.kit.json_lines import complete

# In the folder of a watched program.
OUTPUT, EVENTS, STACKS, TRACE, CACHE = "output.log", "events.jsonl", "stacks", "trace", "cache"
POLL_S = 0.1
SAMPLE_S = 0.5
# A child that reported "finished" but does not exit hangs in its shutdown, a known fault of compile workers.
EXIT_S = 15.0
# Stacks are dumped at this share of the deadline and at the deadline; the difference tells slow from stuck.
FIRST_LOOK = 0.6


@dataclass(frozen=True)
class TimeFor:
    """Time limits of a child.

    Attributes:
        start: seconds until it must begin to compile.
        compile: called when it begins, with the seconds that the start took; returns the seconds for the compile.
    """

    start: float
    compile: Callable[[float], float]


@dataclass(frozen=True)
class Sample:
    """The child at one time: seconds since its start, CPU seconds, resident and cache bytes, processes."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    cache_bytes: int
    processes: int


@dataclass
class Watch:
    """The parent's observations of a child so far.

    Attributes:
        began: `time.monotonic()` at the child's start.
        facts: what the child reported.
        stage: the child's latest event: `starting`, `started`, `built`, `compiling`, `finished` or `raised`.
        stage_at: seconds from the start to that event, as observed by the parent.
        compile_at: seconds from the start to the compile; None before it.
        cpu_at_compile: CPU seconds that the child had used when its compile began.
        late: whether its time was up before it ended.
        status: its exit status once it has ended, as in `subprocess`.
        cleared: what had to be ended after it.
    """

    folder: Path
    root: psutil.Process
    began: float
    facts: dict[str, Any] = field(default_factory=dict)
    stage: str = "starting"
    stage_at: float = 0.0
    compile_at: float | None = None
    cpu_at_compile: float = 0.0
    looks: list[Observation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    late: bool = False
    status: int | None = None
    cleared: Cleared = field(default_factory=Cleared)
    _read: int = 0

    def now(self) -> float:
        """Seconds since the child's start."""
        return time.monotonic() - self.began

    @property
    def start_s(self) -> float:
        """Seconds until the compile began; until now if it has not."""
        return self.compile_at if self.compile_at is not None else self.now()

    def listen(self) -> None:
        """Read the lines that the child has completed since the last call."""
        with (self.folder / EVENTS).open("rb") as events:
            events.seek(self._read)
            data = events.read()
        found, rest = complete(data)
        self._read += len(data) - len(rest)
        for event in found:
            self.stage, self.stage_at = event.pop("event"), self.now()
            if self.stage == "compiling":
                self.compile_at = self.stage_at
                self.cpu_at_compile = event.pop("cpu_s")
            self.facts |= event

    def sample(self) -> processes.Usage | None:
        """Record the current usage of the child's process tree; None if the child has ended."""
        used = processes.usage(self.root)
        if used is not None:
            cache = folder_bytes(self.folder / CACHE)
            living = 1 + len(used.others) + used.workers
            self.samples.append(Sample(self.now(), used.cpu_s, used.rss_bytes, cache, living))
        return used

    def look(self) -> None:
        """Make the child and its workers dump their stacks, and record its progress."""
        used, tree = self.sample(), self._tree()
        if used is None:
            return
        # What compile workers do says nothing of progress, and one of many may answer late.
        others = {f"{one.pid}.txt" for one in tree if processes.is_worker(one)}
        found = dumps.ask(tree, self.folder / STACKS)
        told = {name: text for name, text in found.items() if name not in others}
        frames = dumps.main_frames(told, self.folder / STACKS)
        at_s = self.now() - self.stage_at
        self.looks.append(Observation(at_s, used.cpu_s, self.samples[-1].cache_bytes, frames, used.others))

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.Error:
            return []

    @property
    def verdict(self) -> Verdict | None:
        """Slow or stuck, from the first and the last observation; None with fewer than two."""
        return slow_or_stuck(self.looks[0], self.looks[-1]) if len(self.looks) > 1 else None

    @property
    def where(self) -> str | None:
        """The innermost frame at the last observation; None without one."""
        return innermost_frame(self.looks[-1].frames) if self.looks else None

    @property
    def cpu_share(self) -> float | None:
        """CPU seconds per second from the start of the compile to the last observation; None without one."""
        if not self.looks:
            return None
        last = self.looks[-1]
        return (last.cpu_s - self.cpu_at_compile) / last.at_s


def watched(words: Sequence[str], environment: Mapping[str, str], folder: Path, time_for: TimeFor) -> Watch:
    """Run a program and monitor it until it has ended or its time is up; no process of it is left running.

    Args:
        words: the program and its arguments.
        environment: its complete environment.
        folder: for the observations; it holds the events and the compile cache.
        time_for: time limits of its start and its compile.

    Raises:
        OSError: it cannot be started.
    """
    began = time.monotonic()
    with Child(words, environment, folder / OUTPUT) as child:
        watch = Watch(folder, psutil.Process(child.pid), began)
        watch.late = _follow(watch, child, time_for)
    watch.status, watch.cleared = child.status, child.cleared
    return watch


def _follow(watch: Watch, child: Child, time_for: TimeFor) -> bool:
    """Monitor until the child has ended or its time is up; True if its time was up first."""
    next_sample, compile_s = 0.0, 0.0
    while True:
        if child.wait(POLL_S):
            return False
        watch.listen()
        spent = watch.now() - watch.stage_at
        if watch.stage in {"finished", "raised"}:
            if spent >= EXIT_S:
                watch.facts["exit_hung"] = True
                return False
        elif watch.stage == "compiling":
            compile_s = compile_s or time_for.compile(watch.stage_at)
            if spent >= compile_s:
                watch.look()
                return True
            if not watch.looks and spent >= compile_s * FIRST_LOOK:
                watch.look()
        elif watch.now() >= time_for.start:
            return True
        if watch.now() < next_sample:
            continue
        watch.sample()
        next_sample = watch.now() + SAMPLE_S
