"""Figures that a compiling process reports about itself: CPU seconds, memory, graph counts, versions."""

import contextlib
import importlib.metadata
import importlib.util
import os
import resource
import sys
from dataclasses import dataclass, field
from typing import Any, Self

from runner.kit.compile_guard.processes import cpu_of


@dataclass
class CompilerTime:
    """CPU seconds between the compiler's start and end callbacks; the rest of a first call is the model's own work.

    Attributes:
        cpu_s: total so far, over all compiles of this process.
    """

    cpu_s: float = 0.0
    _began: list[float] = field(default_factory=list)

    @classmethod
    def watched(cls) -> Self:
        """An instance that follows every compile of this process from now on."""
        from torch._dynamo.callback import on_compile_end, on_compile_start

        made = cls()
        on_compile_start(made._start)
        on_compile_end(made._end)
        return made

    def _start(self, _: Any) -> None:
        self._began.append(cpu_seconds())

    def _end(self, _: Any) -> None:
        self.cpu_s += cpu_seconds() - self._began.pop()


def cpu_seconds() -> float:
    """CPU seconds of this process and of all its descendants, running or waited for.

    Compile workers are running children; they have waited for the assemblers (`ptxas`) that they start.
    """
    import psutil

    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += cpu_of(process)
    return total


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    # Linux counts ru_maxrss in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cache_counts() -> tuple[int, int]:
    """(hits, misses) of Inductor's graph cache in this process so far."""
    from torch._dynamo.utils import counters as found

    return found["inductor"]["fxgraph_cache_hit"], found["inductor"]["fxgraph_cache_miss"]


def counters() -> dict[str, object]:
    """Graphs, graph breaks, recompiles, cache hits and misses of this process, and seconds by phase of the compiler."""
    from torch._dynamo import utils

    hits, misses = cache_counts()
    metrics = utils.get_compilation_metrics()
    return {
        "graphs": utils.counters["stats"]["unique_graphs"],
        "graph_breaks": sum(utils.counters["graph_break"].values()),
        "recompiles": sum(one.recompile_reason is not None for one in metrics),
        "cache_hits": hits,
        "cache_misses": misses,
        "phases_s": utils.calculate_time_spent(),
    }


def compiler_versions() -> dict[str, object]:
    """Versions that a compile depends on, and the number of compile threads."""
    import torch
    import torch._inductor.config as inductor

    triton = None
    if importlib.util.find_spec("triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            triton = importlib.metadata.version("triton")
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "triton": triton,
        "compile_threads": inductor.compile_threads,
        "cores": len(os.sched_getaffinity(0)),
    }
