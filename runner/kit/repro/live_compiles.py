"""Compiles that are running on this node: processes with a busy core, their compile workers, and cache growth.

Read-only: it reads /proc twice, a few seconds apart, and sends no signals. Processes of other users show only part of
this; run it as root, or as the user of the job.
"""

import contextlib
import itertools
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from runner.base.environment import environment_of
from runner.base.errors import RunbookError
from runner.base.time_limit import answer_within
from runner.base.words import and_more
from runner.hang.process_facts import has_torch
from runner.kit.compile_guard.cache import file_sizes
from runner.kit.compile_guard.processes import is_worker
from runner.kit.probe import Findings, say, single

# A process that uses this share of one core counts as "CPU at 100 %".
PEGGED_SHARE = 0.9
# A compile cache has tens of thousands of files.
_MOST_FILES = 200_000
# Reading every process twice takes a second or two.
_LOOK_S = 40.0
# Of Inductor's C++ and Triton backends and of CUDA extensions; some installations wrap gcc, which is then `gcc-real`.
# Not `file`, which Python's `platform` module starts.
_COMPILERS = frozenset(
    {
        *("cc", "c++", "gcc", "g++", "gcc-real", "g++-real", "cc1", "cc1plus", "collect2", "as", "ld"),
        *("clang", "clang++", "ptxas", "ptxas-blackwell", "cicc", "nvcc", "ninja"),
    }
)


@dataclass(frozen=True)
class LiveCompile:
    """One process that has torch loaded.

    Attributes:
        cpu_share: CPU seconds per second of the window; 1 is one fully busy core.
        waited_share: seconds per second in which its main thread was ready to run and other processes had the cores.
        workers: its live Inductor compile workers.
        compilers: C++, PTX and CUDA compilers among its descendants.
        cache: its Inductor cache folder; None if its environment is not readable, or the folder is too large.
        cache_growth_bytes: growth of that folder in the window.
    """

    pid: int
    name: str
    cpu_share: float
    workers: int
    compilers: int
    cache: Path | None
    cache_growth_bytes: int | None
    waited_share: float = 0.0

    @property
    def compiling(self) -> bool:
        """Whether it has running compilers, or a growing cache."""
        return self.compilers > 0 or bool(self.cache_growth_bytes)

    @property
    def pegged(self) -> bool:
        """Whether it keeps a core busy."""
        return self.cpu_share >= PEGGED_SHARE

    @property
    def would_keep_a_core_busy(self) -> bool:
        """Whether it keeps a core busy, or would if others, such as a diagnosis, left it one."""
        return self.cpu_share + self.waited_share >= PEGGED_SHARE


def look_at_processes(window_s: float) -> tuple[LiveCompile, ...]:
    """Read every process that has torch loaded, twice, `window_s` seconds apart; the busiest comes first."""
    before: dict[int, _State] = {}
    for process in psutil.process_iter():
        # A process may end while it is read.
        with contextlib.suppress(psutil.Error):
            if has_torch(process.pid) and not is_worker(process):
                before[process.pid] = _State.of(process)
    began = time.monotonic()
    time.sleep(window_s)
    found = []
    for pid, old in before.items():
        with contextlib.suppress(psutil.Error):
            new = _State.of(psutil.Process(pid))
            seconds = time.monotonic() - began
            share, waited = (new.cpu_s - old.cpu_s) / seconds, (new.waited_s - old.waited_s) / seconds
            growth = None if new.cache is None else new.cache_bytes - old.cache_bytes
            found.append(
                LiveCompile(pid, new.name, share, new.workers, new.compilers, new.cache, growth, waited)
            )
    return tuple(sorted(found, key=lambda one: -one.cpu_share))


def look_findings(window_s: float) -> Findings:
    """Observe, print one line per process, and report; never a symptom, as two observations do not prove one.

    Raises:
        RunbookError: a process, or the mount of its cache, does not answer.
    """
    try:
        found = answer_within(window_s + _LOOK_S, lambda: look_at_processes(window_s))
    except TimeoutError as error:
        raise RunbookError(
            f"reading the processes of this node: {error}; a process or a mount does not answer"
        ) from error
    for one in found:
        cache = (
            "cache unreadable" if one.cache_growth_bytes is None else f"cache {one.cache_growth_bytes:+d} B"
        )
        say(
            f"pid {one.pid} {one.name}: {one.cpu_share:.0%} CPU, {one.workers} compile workers, "
            f"{one.compilers} compilers, {cache} in {window_s:g} s"
            f"{', compiling' if one.compiling else ''}{', a core is busy' if one.pegged else ''}"
        )
    if not found:
        say("no visible process has torch loaded")
    return Findings(
        reason=_suspect(found, window_s),
        measurements=[
            single("compile_workers", sum(one.workers for one in found)),
            single("pegged_processes", sum(one.pegged for one in found)),
        ],
        details={
            "window_s": window_s,
            "processes": [
                # Its cache may be named after a user.
                {name: value for name, value in asdict(one).items() if name != "cache"}
                | {"compiling": one.compiling}
                for one in found
            ],
        },
    )


def _suspect(found: tuple[LiveCompile, ...], window_s: float) -> str | None:
    """What to check again, if anything; it is not the symptom yet."""
    pegged = [one for one in found if one.would_keep_a_core_busy]
    if not pegged:
        return None
    busiest = pegged[0]
    moves = "compiling" if busiest.compiling else "no compiler and no growing cache"
    return (
        f"process {busiest.pid} ({busiest.name}) has torch loaded and kept a core busy, or waited for one, for "
        f"{window_s:g} s, {moves}{and_more(len(pegged))}; if its warm-up should be over, "
        f"run py-spy dump --pid {busiest.pid} twice"
    )


@dataclass(frozen=True)
class _State:
    name: str
    cpu_s: float
    waited_s: float
    workers: int
    compilers: int
    cache: Path | None
    cache_bytes: int

    @classmethod
    def of(cls, process: psutil.Process) -> "_State":
        times, workers, compilers = process.cpu_times(), 0, 0
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                workers += is_worker(child)
                compilers += child.name() in _COMPILERS
        cache = _cache_of(process)
        size = None if cache is None else _bytes_of(cache)
        cpu_s = times.user + times.system
        place, held = (None, 0) if size is None else (cache, size)
        return cls(process.name(), cpu_s, _waited_s(process.pid), workers, compilers, place, held)


def _waited_s(pid: int) -> float:
    """Seconds for which the main thread was ready and did not run; 0 where the kernel does not count them."""
    try:
        # Nanoseconds on a core, nanoseconds ready, time slices (Linux, Documentation/scheduler/sched-stats.rst).
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _bytes_of(cache: Path) -> int | None:
    """The size of a cache; None if the folder is too large to be one, as a process may name any folder."""
    sizes = [*itertools.islice(file_sizes(cache), _MOST_FILES + 1)]
    return None if len(sizes) > _MOST_FILES else sum(sizes)


def _cache_of(process: psutil.Process) -> Path | None:
    try:
        named, user = environment_of(process.pid).get("TORCHINDUCTOR_CACHE_DIR"), process.username()
    except (psutil.Error, RunbookError):
        return None
    return Path(named) if named else Path(tempfile.gettempdir()) / f"torchinductor_{user}"
