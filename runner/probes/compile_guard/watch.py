"""Watching a compile from outside: what its child says, what its processes use, where its stacks stand."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runner.probes.compile_guard import dumps, processes
from runner.probes.compile_guard.cache import folder_bytes
from runner.probes.compile_guard.stacks import Look, Verdict, judge

POLL_S = 0.1
SAMPLE_S = 0.5
# A child that has said "finished" and does not leave hangs in its shutdown, a known fault of compile workers.
EXIT_S = 15.0
# Stacks are dumped at this share of the deadline and on it; what changed in between tells slow from stuck.
FIRST_LOOK = 0.6


@dataclass(frozen=True)
class TimeFor:
    """What a child may take.

    Attributes:
        start: seconds until it must have begun to compile.
        compile: tells, once it begins, the seconds for the compile; it is given the seconds that the start took.
    """

    start: float
    compile: Callable[[float], float]


@dataclass(frozen=True)
class Sample:
    """The child at one moment: seconds since its start, CPU seconds, resident and cache bytes, processes."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    cache_bytes: int
    processes: int


@dataclass
class Watch:
    """What the parent has seen of a child so far.

    Attributes:
        began: `time.monotonic()` at the child's start.
        facts: what the child said of itself.
        stage: the child's latest event: `starting`, `started`, `built`, `compiling`, `finished` or `raised`.
        stage_at: seconds from the start to that event, as the parent saw it.
        compile_at: seconds from the start to the compile; None before it.
        cpu_at_compile: CPU seconds that the child had used when its compile began.
    """

    folder: Path
    root: psutil.Process
    began: float
    facts: dict[str, Any] = field(default_factory=dict)
    stage: str = "starting"
    stage_at: float = 0.0
    compile_at: float | None = None
    cpu_at_compile: float = 0.0
    looks: list[Look] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _read: int = 0

    def now(self) -> float:
        """Seconds since the child's start."""
        return time.monotonic() - self.began

    @property
    def start_s(self) -> float:
        """Seconds until the compile began; until now where it has not."""
        return self.compile_at if self.compile_at is not None else self.now()

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
                self.compile_at = self.stage_at
                self.cpu_at_compile = event.pop("cpu_s")
            self.facts |= event

    def sample(self) -> processes.Usage | None:
        """Note what the child's tree uses now; None when the child is gone."""
        used = processes.usage(self.root)
        if used is not None:
            cache = folder_bytes(self.folder / "cache")
            self.samples.append(Sample(self.now(), used.cpu_s, used.rss_bytes, cache, len(used.others) + 1))
        return used

    def look(self) -> None:
        """Have the child and its workers write their stacks, and note how far it is."""
        used = self.sample()
        if used is None:
            return
        frames = dumps.main_frames(dumps.ask(self._tree(), self.folder / "stacks"), self.folder / "stacks")
        at_s = self.now() - self.stage_at
        self.looks.append(Look(at_s, used.cpu_s, self.samples[-1].cache_bytes, frames, used.others))

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.Error:
            return []

    @property
    def verdict(self) -> Verdict | None:
        """Slow or stuck, by the first and the last look; None with fewer than two."""
        return judge(self.looks[0], self.looks[-1]) if len(self.looks) > 1 else None

    @property
    def cpu_share(self) -> float | None:
        """CPU seconds per second from the start of the compile to the last look; None without a look."""
        if not self.looks:
            return None
        last = self.looks[-1]
        return (last.cpu_s - self.cpu_at_compile) / last.at_s


def watch_child(watch: Watch, child: subprocess.Popen[bytes], time_for: TimeFor) -> bool:
    """Watch until the child is done or its time is up; True where its time was up first.

    Args:
        watch: takes in what is seen.
        child: the process, leader of its own session.
        time_for: how long the child may take to start, and then to compile.
    """
    next_sample, compile_s = 0.0, 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)
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
