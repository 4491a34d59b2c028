"""The guard's child: build, answer in eager, compile, answer again, and say so line by line.

Started as `python -m runner.probes.compile_guard.child FOLDER PARENT`, PARENT being the guard's process id. It reads
FOLDER/spec.json and appends JSON lines to FOLDER/events.jsonl, so that the parent knows how far a child came that
never ends. SIGUSR1 appends the stacks of all threads to FOLDER/stacks.txt, also while native code holds the GIL.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from runner.probes.compile_guard import stall
from runner.probes.compile_guard.modes import compile_in_place, output_difference
from runner.probes.compile_guard.spec import Mode, Spec, resolve

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Do what FOLDER/spec.json asks; 0 when the model answered, 1 when something raised."""
    folder = Path(sys.argv[1])
    # A guard that is killed must not leave a compile behind that nobody will end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return 1
    with (folder / "stacks.txt").open("a") as stacks, (folder / "events.jsonl").open("a") as events:
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)

        def tell(event: str, **facts: object) -> None:
            events.write(json.dumps({"event": event, **facts}) + "\n")
            events.flush()

        tell("started", thread=threading.main_thread().ident)
        try:
            _work(Spec.read(folder / "spec.json"), tell)
        except Exception as error:  # noqa: BLE001 - whatever the compiler raises is the result, not a crash
            first_line = str(error).strip().partition("\n")[0]
            tell("raised", error=f"{type(error).__name__}: {first_line}"[:500])
            return 1
    return 0


def _work(spec: Spec, tell: Any) -> None:
    for place in spec.search:
        if place not in sys.path:
            sys.path.append(place)
    mode, began = Mode(spec.mode), time.monotonic()
    import torch

    if mode is not Mode.EAGER:
        # The compiler is imported on its first use; its import is no part of a compile.
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")
    imported = time.monotonic()
    model, inputs = resolve(spec.builder)(**spec.arguments)
    with torch.no_grad():
        expected = model(*inputs)
        _synchronise()
        tell(
            "built",
            import_s=imported - began,
            build_s=time.monotonic() - imported,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            devices=sorted({str(parameter.device) for parameter in model.parameters()}),
            versions=_versions(),
        )
        if mode is Mode.EAGER:
            tell("finished", difference=output_difference(expected, expected), **_usage())
            return
        if spec.stall:
            stall.inject()
        cpu = _cpu_seconds()
        tell("compiling", cpu_s=cpu)
        began = time.monotonic()
        compile_in_place(model, mode)
        answered = model(*inputs)
        _synchronise()
        compile_s, compile_cpu_s = time.monotonic() - began, _cpu_seconds() - cpu
    tell(
        "finished",
        compile_s=compile_s,
        compile_cpu_s=compile_cpu_s,
        difference=output_difference(answered, expected),
        **_usage(),
        **_counters(),
    )


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_seconds() -> float:
    """CPU seconds of this process, of the children it has waited for, and of those still at work."""
    import psutil

    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _usage() -> dict[str, object]:
    # Linux counts ru_maxrss in KiB.
    return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _counters() -> dict[str, object]:
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "cache_hits": inductor["fxgraph_cache_hit"],
        "cache_misses": inductor["fxgraph_cache_miss"],
    }


def _versions() -> dict[str, object]:
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


if __name__ == "__main__":
    sys.exit(main())
