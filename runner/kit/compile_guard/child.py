"""The guard's child: builds the model, runs it in eager, compiles it, runs it again, and logs each stage.

Started as `python -m runner.kit.compile_guard.child FOLDER PARENT`, where PARENT is the guard's process id. It reads
FOLDER/spec.json and appends JSON lines to FOLDER/events.jsonl, so that the parent knows the last stage of a child that
hangs. The hook of `dumps` dumps its stacks, also while native code holds the GIL.
"""

import copy
import importlib
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.kit.children import die_with_parent
from runner.kit.compile_guard import stall, workers
from runner.kit.compile_guard.blocks import Call, lay_out
from runner.kit.compile_guard.figures import (
    compiler_versions,
    counters,
    cpu_seconds,
    peak_rss_bytes,
)
from runner.kit.compile_guard.modes import (
    compile_in_place,
    one_thread,
    output_difference,
    repeated_blocks,
    tensors,
)
from runner.kit.compile_guard.spec import Spec, resolve
from runner.kit.compile_guard.watch import EVENTS
from runner.kit.compile_options import Mode
from runner.kit.json_lines import append

_ERROR_LINE = re.compile(r"\berror: ")
# Out-of-memory messages of torch's allocators, C++, and the compilers that Inductor starts.
_NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def main() -> int:
    """Run FOLDER/spec.json; 0 if the model ran, 1 if something raised."""
    folder = Path(sys.argv[1])
    if not die_with_parent(int(sys.argv[2])):
        return 1
    with (folder / EVENTS).open("ab") as events:

        def tell(event: str, **facts: object) -> None:
            append(events, {"event": event, **facts})

        tell("started")
        try:
            _work(Spec.read(folder / "spec.json"), tell)
        except Exception as error:  # noqa: BLE001 - any error of the compiler is a result, not a crash
            tell("raised", error=in_one_line(error), memory=ran_out_of_memory(error))
            return 1
    return 0


def in_one_line(error: Exception) -> str:
    """An exception in one line: the first line of its message and the first error of a compiler's output in it."""
    first, *below = str(error).strip().splitlines() or [""]
    of_compiler = next((line.strip() for line in below if _ERROR_LINE.search(line)), None)
    return ": ".join(filter(None, (type(error).__name__, first, of_compiler)))[:500]


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an exception means out of memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _work(spec: Spec, tell: Any) -> None:
    for place in spec.search:
        if place not in sys.path:
            sys.path.append(place)
    mode, began = Mode(spec.mode), time.monotonic()
    importlib.import_module("torch")
    if mode is Mode.ONE_THREAD:
        one_thread()
    if mode is not Mode.EAGER:
        # A limit of memory must come before the processes that it is to hold for.
        if spec.memory_bytes is None:
            workers.begin()
        # The compiler is imported on first use; the import is not part of the compile.
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")
    imported = time.monotonic()
    if spec.memory_bytes is not None:
        _limit_memory(spec.memory_bytes)
    calls, parameters, alone = _calls(spec, mode)
    devices = sorted({str(one.device) for module, _, _ in calls for one in module.parameters()})
    # Started before the model runs in eager, so that both take place at once.
    ready = None if mode is Mode.EAGER else workers.start(gpu=_on_gpu(devices))
    expected = _answers(calls, alone=alone, backward=spec.backward)
    build_s = time.monotonic() - imported
    tell(
        "built",
        import_s=imported - began,
        build_s=build_s,
        workers_s=ready() if ready else 0.0,
        parameters=parameters,
        alone=alone,
        devices=devices,
        versions=compiler_versions(),
    )
    if mode is Mode.EAGER:
        difference = output_difference(expected, expected)
        tell("finished", difference=difference, peak_rss_bytes=peak_rss_bytes())
        return
    if spec.stall:
        stall.inject()
    cpu = cpu_seconds()
    tell("compiling", cpu_s=cpu)
    began = time.monotonic()
    for module, _, _ in calls:
        if alone:
            module.compile()
        else:
            compile_in_place(module, mode)
    answered = _answers(calls, alone=alone, backward=spec.backward)
    compile_s, compile_cpu_s = time.monotonic() - began, cpu_seconds() - cpu
    tell(
        "finished",
        compile_s=compile_s,
        compile_cpu_s=compile_cpu_s,
        difference=output_difference(answered, expected),
        peak_rss_bytes=peak_rss_bytes(),
        **counters(),
    )


def _on_gpu(devices: Sequence[str]) -> bool:
    return any(device.startswith("cuda") for device in devices)


def _calls(spec: Spec, mode: Mode) -> tuple[list[Call], int, bool]:
    """What to compile and call, the parameters of the whole model, and whether only its blocks are compiled."""
    build = resolve(spec.builder)
    if spec.alone:
        calls, parameters = lay_out(lambda: build(**spec.arguments), backward=spec.backward)
        if calls:
            return calls, parameters, True
    model, inputs = build(**spec.arguments)
    if mode is Mode.PER_BLOCK:
        repeated_blocks(model)
    return [(model, inputs, {})], sum(parameter.numel() for parameter in model.parameters()), False


def _answers(calls: Sequence[Call], *, alone: bool, backward: bool) -> list[Any]:
    """Outputs of the modules and, with `backward`, the gradients of their parameters."""
    import torch

    found: list[Any] = []
    with torch.set_grad_enabled(backward):
        for module, inputs, named in calls:
            # The inputs of a block may hold state that it changes, such as a KV cache; both runs must start from the
            # same state.
            inputs_now, named_now = copy.deepcopy((inputs, named)) if alone else (inputs, named)
            output = module(*inputs_now, **named_now)
            found += [one.detach() for one in tensors(output)]
            if backward:
                # The sum of squares, not a plain sum, so that gradients depend on the outputs' values and signs.
                sum(one.float().square().sum() for one in tensors(output)).backward()
                found += [one.grad for one in module.parameters() if one.grad is not None]
                module.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found


def _limit_memory(more_bytes: int) -> None:
    """Limit the address space of this process and its children to the current size plus this much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
