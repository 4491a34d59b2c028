"""Compiles one model at one size after another in one process, and logs each compile.

Started as `python -m runner.kit.repro.growth_child FOLDER PARENT`, where PARENT is the process id of the caller. It
reads FOLDER/series.json, announces each compile in FOLDER/events.jsonl, which the guard reads, and appends its result
to FOLDER/compiles.jsonl, so results are kept if the child is killed in the middle of the next compile.
"""

import gc
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.kit.children import die_with_parent
from runner.kit.compile_guard import workers
from runner.kit.compile_guard.child import in_one_line, ran_out_of_memory
from runner.kit.compile_guard.figures import CompilerTime, cpu_seconds
from runner.kit.compile_guard.modes import compile_in_place, output_difference, tensors
from runner.kit.compile_guard.spec import Task, resolve
from runner.kit.compile_guard.watch import EVENTS
from runner.kit.compile_options import Mode
from runner.kit.json_lines import append, complete

SERIES, COMPILES = "series.json", "compiles.jsonl"


@dataclass(frozen=True)
class CompileSeries(Task):
    """The child's task.

    Attributes:
        builder: `module:function`, as named by `spec.builder_name`, for every size.
        first: the same for a small model that is compiled first and pays the one-time cost.
        device: device of both.
        size: name of the builder's argument that grows.
        sizes: its values, in order.
        modes: compile modes of each size.
        seconds: time from the first compile after which no further size is begun.
        always: number of sizes that are always compiled.
        factors: for each size, its maximum time as a multiple of that of the size before.
    """

    builder: str
    first: str
    device: str
    size: str
    sizes: tuple[int, ...]
    modes: tuple[str, ...]
    seconds: float
    always: int
    factors: tuple[float, ...]


def finished(folder: Path) -> list[dict[str, Any]]:
    """The results written so far: the small first compile, then each size in each mode."""
    path = folder / COMPILES
    return complete(path.read_bytes())[0] if path.exists() else []


def main() -> int:
    """Compile the series in FOLDER/series.json; returns 0, whether or not each size compiled."""
    folder = Path(sys.argv[1])
    if not die_with_parent(int(sys.argv[2])):
        return 1
    series = CompileSeries.read(folder / SERIES)
    with (folder / EVENTS).open("ab") as events, (folder / COMPILES).open("ab") as compiles:

        def about_to_compile() -> None:
            append(events, {"event": "compiling", "cpu_s": cpu_seconds()})

        def done(**facts: object) -> None:
            append(compiles, facts)

        _compile_all(series, folder / "caches", about_to_compile, done)
    return 0


def _compile_all(
    series: CompileSeries,
    caches: Path,
    about_to_compile: Callable[[], None],
    done: Callable[..., None],
) -> None:
    _warm_torch()
    workers.start(gpu=series.device == "cuda")()
    caches.mkdir()
    about_to_compile()
    began, last_s = time.monotonic(), 0.0
    done(**_compile_first(series, caches))
    for place, size in enumerate(series.sizes):
        left_s = series.seconds - (time.monotonic() - began)
        if place >= series.always and last_s * series.factors[place] > left_s:
            return
        started = time.monotonic()
        for mode in series.modes:
            about_to_compile()
            arguments = {series.size: size, "device": series.device}
            done(size=size, mode=mode, **_compile(series.builder, arguments, mode, caches))
        last_s = time.monotonic() - started


def _warm_torch() -> None:
    workers.begin()
    # Imported before the first compile, of which the import is not part.
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.compile_fx")


def _compile_first(series: CompileSeries, caches: Path) -> dict[str, object]:
    """Compile the small model, with the vector instructions that the CPU reports.

    Inductor tests each of them in a process that imports torch, which takes longer than all smaller compiles of a
    curve. So it does that only if the compiler does not support them.
    """
    import torch._inductor.config as inductor
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    asked = inductor.cpp.vec_isa_ok
    inductor.cpp.vec_isa_ok = True if asked is None else asked
    made = _compile(series.first, {"device": series.device}, "whole", caches)
    if "error" in made and asked is None:
        inductor.cpp.vec_isa_ok = None
        valid_vec_isa_list.cache_clear()
        made = _compile(series.first, {"device": series.device}, "whole", caches)
    return made


def _compile(builder: str, arguments: Mapping[str, object], mode: str, caches: Path) -> dict[str, object]:
    """The result of one compile from an empty cache: its figures, or the error."""
    import torch
    from torch._inductor.utils import fresh_cache

    # Clears compiled code and compile callbacks.
    torch._dynamo.reset()  # noqa: SLF001 - torch has no public function for it
    compiler = CompilerTime.watched()
    gc.collect()
    try:
        with torch.no_grad(), fresh_cache(dir=str(caches)):
            model, inputs = resolve(builder)(**arguments)
            expected = tensors(model(*inputs))
            began = time.monotonic()
            compile_in_place(model, Mode(mode))
            answered = tensors(model(*inputs))
            return {
                "compile_s": time.monotonic() - began,
                "compiler_cpu_s": compiler.cpu_s,
                "difference": output_difference(answered, expected),
                "parameters": sum(one.numel() for one in model.parameters()),
            }
    except Exception as error:  # noqa: BLE001 - any error of the compiler is a result, not a crash
        return {"error": in_one_line(error), "memory": ran_out_of_memory(error)}


if __name__ == "__main__":
    sys.exit(main())
