"""How long a training loop waits for data, and which limit of the CPU is behind it.

    meter = StepMeter()
    for step, batch in enumerate(meter.batches(loader)):
        train(batch)
        if step % 100 == 99:
            print(meter.report())

In a Trainer, return `meter.wrap(super().get_train_dataloader())` from `get_train_dataloader`.

The wait is the time in the loader's `next()`. With a GPU it is lost only while the GPU has no queued work. Two CUDA
events around `next()`, read later and never waited for, tell how long the stream was empty, and that share decides. A
copy to the device within `next()` counts as wait. Counters of the kernel are read about once a second.
"""

import contextlib
import math
import multiprocessing
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Chosen: steps that name a limit; the share of waits that starves a loop, and of throttled periods that is a quota.
FEWEST_STEPS, STARVED = 20, 0.05
_PARTS, _FEWEST_PERIODS, _MOST_PENDING, _SAMPLE_S, _SAMPLE_SHARE = 4, 10, 256, 1.0, 0.002
# Chosen: without a core a tenth of the time; a fifth too few cores; loaders that run half of the time; a fault a step.
_SLOWED, _OVER, _BUSY, _FAULTS = 0.1, 1.2, 0.5, 1.0


@dataclass(frozen=True, kw_only=True)
class StepMeterReport:
    """What some steps waited for. Shares are of their time, 0 to 1; None: not known."""

    steps: int  # without the first of each iteration
    seconds: float
    first_batch_s: float  # until the first batch of each iteration, together
    wait_share: float  # the GPU's stream was empty while the loader was asked; without a GPU, as of the host
    host_wait_share: float  # the host was in next()
    starved: bool = False  # the wait is above 5 % in most quarters of the steps
    slow_loader: bool = False  # also without the part in which the main thread or the loader lacked a core
    main_delay: float = 0.0  # the main thread was ready and had no core
    worker_delay: float = 0.0  # the same for a loader
    worker_run: float | None = None  # a loader ran
    demand: float = 0.0  # cores that this process's and its loaders' threads wanted: running or ready to run
    throttled_share: float | None = None  # periods in which a control group had used up its quota
    quota_cores: float | None = None  # of the smallest quota
    cores: int = 1  # that this process may use, or its loaders together if they were bound to fewer
    host_cores: int = 1
    threads: int = 1  # of torch, in each rank
    sharing: int = 1  # ranks with a common core
    workers: int = 0  # loaders
    major_faults: int = 0  # page faults that read from storage
    limit: str = "none"  # or unknown, quota, affinity, threads, neighbours, storage, workers, dataset

    @property
    def workers_needed(self) -> int:
        """How many loaders would feed these steps if each had a core, and storage kept up."""
        return math.ceil(max(1, self.workers) / max(0.01, 1 - self.wait_share) - 0.1)

    def __str__(self) -> str:
        waits = f"wait for data {self.wait_share:.0%} (host {self.host_wait_share:.0%})"
        return f"{self.steps} steps, {waits}, first batch {self.first_batch_s:.1f} s; limit: {self.limit}{_why(self)}"


class StepMeter:
    """Times the wait for data in a loop. `ranks_here`: the job's ranks on this host, by default LOCAL_WORLD_SIZE."""

    def __init__(self, ranks_here: int | None = None) -> None:
        self._ranks = ranks_here or _whole(os.environ.get("LOCAL_WORLD_SIZE", ""), 1)
        self._last: dict[tuple[str, str], int] = {}
        self._at, self._due, self._workers = 0.0, math.inf, 0
        self._clear()

    def _clear(self) -> None:
        self._waits, self._spans = list[float](), list[float]()
        self._idle = self._timed = self._first_s = self._wall = self._worker_wall = 0.0
        self._pending: deque[tuple[Any, Any, float]] = deque()
        self._sums: Counter[tuple[str, str]] = Counter()

    def wrap(self, loader: Any) -> Any:
        """The loader as an object whose iteration is timed; all else is the loader's own."""
        return _Metered(self, loader)

    def batches(self, loader: Any) -> Iterator[Any]:
        """The batches of a loader, timed. What the caller does between two of them is the step."""
        began, iterator, nothing = time.perf_counter(), iter(loader), object()
        batch = next(iterator, nothing)
        got = time.perf_counter()
        self._first_s += got - began
        self._sample(anew=True)
        while batch is not nothing:
            yield batch
            asked, before = time.perf_counter(), _event()
            if (batch := next(iterator, nothing)) is nothing:
                return
            now = time.perf_counter()
            self._waits.append(now - asked)
            self._spans.append(now - got)
            if before is not None and len(self._pending) < _MOST_PENDING:
                self._pending.append((before, _event(), now - got))
            self._drain()
            got = now
            if now >= self._due:
                self._sample()

    def _drain(self) -> None:
        while self._pending and self._pending[0][1].query():
            before, after, seconds = self._pending.popleft()
            self._idle += before.elapsed_time(after) / 1e3
            self._timed += seconds

    def report(self) -> StepMeterReport:
        """What the steps since the last report waited for. Ask within the loop: loaders end with it."""
        self._sample()
        self._drain()
        sums = {what: count for (what, where), count in self._sums.items() if not where}
        periods = {one: count for (what, one), count in self._sums.items() if what == "periods"}
        hits = [self._sums["throttled", one] / n for one, n in periods.items() if n >= _FEWEST_PERIODS]
        host = sum(self._waits) / (sum(self._spans) or 1.0)
        share = min(1.0, self._idle / self._timed) if self._timed else host
        wall, loaders = (1e9 * seconds or math.inf for seconds in (self._wall, self._worker_wall))
        main, held, ran = (sums.get(what, 0) for what in ("main delay", "worker delay", "worker run"))
        # The loader hands over: where it or the main thread lacks a core, the data may be there already.
        cored = (1 - min(1.0, main / wall)) * (1 - held / (held + ran or 1))
        found = StepMeterReport(
            steps=len(self._waits),
            seconds=sum(self._spans),
            first_batch_s=self._first_s,
            wait_share=share,
            host_wait_share=host,
            starved=self._starved(share / (host or 1.0)),
            slow_loader=self._starved(share / (host or 1.0) * cored),
            main_delay=min(1.0, main / wall),
            worker_delay=min(1.0, held / loaders),
            worker_run=min(1.0, ran / loaders) if "worker run" in sums else None,
            demand=sum(count for what, count in sums.items() if what.endswith(("run", "delay"))) / wall,
            throttled_share=min(1.0, max(hits)) if hits else None,
            quota_cores=min((cores for one in _cpu_groups() if (cores := _quota(one))), default=None),
            cores=min(len(one) for one in (_allowed(0), _allowed(*_loaders())) if one),
            host_cores=os.cpu_count() or 1,
            threads=sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1,
            sharing=_sharing(self._ranks),
            workers=self._workers,
            major_faults=sums.get("faults", 0),
        )
        self._clear()
        return replace(found, limit=_limit(found))

    def _starved(self, scale: float) -> bool:
        """Whether most parts of the steps waited too long: one checkpoint or one slow file does not decide."""
        edges = [part * len(self._waits) // _PARTS for part in range(_PARTS + 1)]
        spans = [slice(None), *map(slice, edges, edges[1:])]
        long = [scale * sum(self._waits[one]) > STARVED * sum(self._spans[one]) for one in spans]
        return len(self._waits) >= FEWEST_STEPS and long[0] and sum(long[1:]) >= _PARTS - 1

    def _sample(self, *, anew: bool = False) -> None:
        """Add what was counted since the last sample; `anew` only takes the counters, as after a start of workers."""
        began, loaders = time.perf_counter(), _loaders()
        now = _counters(loaders)
        if not anew and self._at:
            self._wall += began - self._at
            self._worker_wall += len(loaders) * (began - self._at)
            for (what, where), value in now.items():
                key = what, where if what in {"periods", "throttled"} else ""
                self._sums[key] += max(0, value - self._last.get((what, where), value))  # 0 when first seen
        self._last, self._at, self._workers = now, began, len(loaders)
        self._due = began + max(_SAMPLE_S, (time.perf_counter() - began) / _SAMPLE_SHARE)


class _Metered:
    def __init__(self, meter: StepMeter, loader: Any) -> None:
        self._meter, self._loader = meter, loader

    def __iter__(self) -> Iterator[Any]:
        return self._meter.batches(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy or a pickle has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)


def _limit(found: StepMeterReport) -> str:
    """The name of the limit. A scarce core is asked for before the loader: it makes any loader slow."""
    if found.steps < FEWEST_STEPS:
        return "unknown"
    if (found.throttled_share or 0) > STARVED:
        return "quota"
    # With a core for each, the loaders would need no more time than the steps.
    fed = (1 - found.host_wait_share) * (1 - found.main_delay) >= (1 - found.worker_delay) * (1 - _SLOWED)
    hungry = found.starved and found.workers > 0 and fed
    wants_more = found.demand > _OVER * found.cores
    many_threads = found.threads * found.sharing > found.cores
    if hungry or found.main_delay >= _SLOWED:
        if found.cores < found.host_cores and (wants_more or many_threads):
            return "affinity"
        if many_threads:
            return "threads"
        if hungry and not wants_more:
            return "neighbours"
    if not found.slow_loader or not found.demand:
        return "unknown" if found.slow_loader else "none"
    busy = found.worker_run is None or found.worker_run + found.worker_delay >= _BUSY
    if not busy and found.major_faults >= _FAULTS * found.steps:
        return "storage"
    return "workers" if not busy or found.workers_needed <= found.cores / found.sharing - 1 else "dataset"


def _why(found: StepMeterReport) -> str:
    ranks = f" in each of {found.sharing} ranks" if found.sharing > 1 else ""
    wanted = f", {found.cores} of {found.host_cores} cores for {found.threads} threads of torch{ranks} and"
    wanted += f" {found.workers} loaders; without a core: main thread {found.main_delay:.0%}"
    needed = f", {found.workers} loaders, about {found.workers_needed} would do"
    return {
        "none": "",
        "unknown": f", {FEWEST_STEPS} steps are needed"
        if found.steps < FEWEST_STEPS
        else ", the kernel does not tell what ran (/proc/self/task/*/schedstat)",
        "quota": f", {found.quota_cores or 0:g} cores, throttled in {found.throttled_share or 0:.0%} of periods",
        "storage": f", {found.major_faults} page faults that read from storage",
        "workers": needed,
        "dataset": f"{needed} with a core each",
    }.get(found.limit, f"{wanted}, loaders {found.worker_delay:.0%} of the time")


def _event() -> Any:
    """An event in the current stream, if this process uses CUDA."""
    torch: Any = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_initialized()
    return torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True)) if used else None


def _loaders() -> list[int]:
    """Loaders of this process: newer versions of PyTorch name them; else all daemonic children."""
    pids = [child.pid for child in multiprocessing.active_children() if child.daemon and child.pid]
    return [pid for pid in pids if _text(f"/proc/{pid}/comm").startswith("pt_data_worker")] or pids


def _counters(loaders: list[int]) -> dict[tuple[str, str], int]:
    """Counters, by what is counted and where it was read; times in nanoseconds."""
    found: dict[tuple[str, str], int] = {}
    for pid in (os.getpid(), *loaders):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            whose = "worker" if pid != os.getpid() else "main" if path.parent.name == str(pid) else "own"
            for what, word in zip(("run", "delay"), _text(path).split(), strict=False):
                found[f"{whose} {what}", str(path)] = _whole(word)
        stat = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        found["faults", f"/proc/{pid}"] = _whole(stat[9]) if stat[9:] else 0
    for folder in _cpu_groups():
        counts = dict(line.split(" ", 1) for line in _text(f"{folder}/cpu.stat").splitlines() if " " in line)
        for name in ("periods", "throttled") if "nr_periods" in counts else ():
            found[name, folder] = _whole(counts.get(f"nr_{name}", ""))
    return found


def _sharing(ranks: int) -> int:
    """Ranks of this host that may use a common core: children of the same parent."""
    mine, parent = _allowed(0), os.getppid()
    siblings = _text(f"/proc/{parent}/task/{parent}/children").split() if ranks > 1 else []
    return max(1, min(ranks, sum(bool(mine & _allowed(int(pid))) for pid in siblings)))


def _allowed(*pids: int) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= os.sched_getaffinity(pid)
    return found


def _cpu_groups() -> list[str]:
    """Folders of the control groups that limit this process's CPU time, of versions 1 and 2, its own first."""
    lines = [line.split(":", 2) for line in _text("/proc/self/cgroup").splitlines() if line.count(":") > 1]
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    found: list[str] = []
    for line in _text("/proc/self/mountinfo").splitlines():
        head, _, tail = (part.split() for part in line.partition(" - "))
        name = {"cgroup": "cpu", "cgroup2": ""}.get(tail[0]) if tail and head[4:] else None
        if name in paths and (name == "" or name in tail[-1].split(",")):
            # A container may mount its own group alone and still name the whole path.
            place = Path(head[4])
            folder = place / paths[name].removeprefix(head[3].rstrip("/")).strip("/")
            folder = folder if folder.is_dir() else place
            found += [str(one) for one in (folder, *folder.parents) if one.is_relative_to(place)]
    return found


def _quota(folder: str) -> float | None:
    words = _text(f"{folder}/cpu.max").split()
    words = words or [_text(f"{folder}/cpu.cfs_{one}_us").strip() for one in ("quota", "period")]
    return (
        _whole(words[0]) / (_whole(words[1]) or 1) if words[1:] and all(map(str.isdecimal, words)) else None
    )


def _whole(word: str, other: int = 0) -> int:
    return int(word) if word.isdecimal() else other


def _text(path: str | Path) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
