"""Compiles one model at one size after another in one process, and says so line by line.

Started as `python -m runner.probes.repro.growth_child FOLDER PARENT`, PARENT being the process id of who asks. It reads
FOLDER/series.json, announces each compile in FOLDER/events.jsonl, where the guard listens, and appends what became of
it to FOLDER/compiles.jsonl: what a child has done is known although it is ended in the middle of the next compile.
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from runner.probes.compile_guard.child import end_with, in_one_line, ran_out_of_memory
from runner.probes.compile_guard.figures import CompilerTime, cpu_seconds
from runner.probes.compile_guard.modes import compile_in_place, output_difference, tensors
from runner.probes.compile_guard.spec import Mode, resolve

SERIES, COMPILES = "series.json", "compiles.jsonl"


@dataclass(frozen=True)
class Series:
    """What the child is asked for.

    Attributes:
        builder: `module:function`, as `spec.reference` names it, for every size.
        first: the same for a small model that is compiled before: it pays for what any first compile pays.
        device: of both.
        size: the name of the builder's argument that grows.
        sizes: its values, in order.
        modes: how each is compiled.
        seconds: after which no further size is begun; counted from the child's start.
        always: so many sizes are compiled in any case.
        factors: for each size, how many times as long as the one before it takes at most.
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

    def write(self, path: Path) -> None:
        """Write it for the child."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Series":
        """Read what `write` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**(fields | lists))


def finished(folder: Path) -> list[dict[str, Any]]:
    """What a child has written down so far: the small first compile, then each size in each mode."""
    try:
        text = (folder / COMPILES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    # A child that was ended may have left half of a line.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def main() -> int:
    """Compile the series that FOLDER/series.json asks for; 0, whatever became of each size."""
    began, folder = time.monotonic(), Path(sys.argv[1])
    if not end_with(int(sys.argv[2])):
        return 1
    series = Series.read(folder / SERIES)
    with (folder / "events.jsonl").open("a") as events, (folder / COMPILES).open("a") as compiles:

        def about_to_compile() -> None:
            _append(events, {"event": "compiling", "cpu_s": cpu_seconds()})

        def done(**facts: object) -> None:
            _append(compiles, facts)

        _compile_all(series, folder / "caches", began, about_to_compile, done)
    return 0


def _append(file: TextIO, facts: Mapping[str, object]) -> None:
    file.write(json.dumps(facts) + "\n")
    file.flush()


def _compile_all(
    series: Series,
    caches: Path,
    began: float,
    about_to_compile: Callable[[], None],
    done: Callable[..., None],
) -> None:
    _warm_torch()
    caches.mkdir()
    about_to_compile()
    done(**_compile_first(series, caches))
    last_s = 0.0
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
    # Imported before the first compile: it is no part of it.
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.compile_fx")


def _compile_first(series: Series, caches: Path) -> dict[str, object]:
    """Compile the small model, with the vector instructions that the CPU says it has.

    Inductor tries each of them out, in a process that imports torch; that takes longer than all of a curve's smaller
    compiles. So it does only where the compiler here does not know them.
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
    """What became of one compile, from an empty cache: its figures, or the error."""
    import torch
    from torch._inductor.utils import fresh_cache

    # Forgets compiled code, and who watches compiles.
    torch._dynamo.reset()  # noqa: SLF001 - torch has no public way
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
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises is the result, not a crash
        return {"error": in_one_line(error), "memory": ran_out_of_memory(error)}


if __name__ == "__main__":
    sys.exit(main())
