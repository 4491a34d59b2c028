"""What `capture_fp8_flexattention_traces` does: each operation timed, checked, and run under torch's profiler."""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.base.units import format_value
from runner.kit.budget import Budget, budget, seconds_of
from runner.kit.precision.linear import signal_to_noise
from runner.kit.precision.product import fp8_product
from runner.kit.probe import Findings, measured, preset_of, say, single
from runner.kit.profiling import callers, profile_of
from runner.kit.traced_work import SHAPES, Operation, operations, under_nsys
from runner.kit.usable import usable_gpus
from runner.record.model import Measurement

_NSYS_DEADLINE_S, _NSYS_WHEN_SHORT_S = 120.0, 12.0
_LONGEST_NAME = 100
_WARM_UP_ITERATIONS = 3
_ON_CPU_S = 8.0
# Every iteration is timed, profiled separately, and profiled together with the other operation.
_PASSES = 3
_TICK_S = 1e-9


def trace_findings(arguments: argparse.Namespace, iterations_by_default: int) -> Findings:
    """Time, accuracy and slowest kernels of each operation; the trace is left in the output folder.

    Raises:
        InputError: a number is out of range, the preset needs a GPU, or the folder cannot be written.
        NotApplicableError: this GPU has no FP8.
        RunbookError: a result is not finite, or the trace could not be written.
    """
    import torch

    asked = iterations_by_default if arguments.iterations is None else arguments.iterations
    if asked < 1 or arguments.top < 1:
        raise InputError("--iterations and --top must be above zero")
    whole = budget(math.inf)
    preset = preset_of(arguments)
    device = "cuda" if usable_gpus() else "cpu"
    if device == "cpu" and preset != "tiny":
        raise InputError(f"preset {preset} needs a GPU that torch can use; --preset tiny runs on a CPU")
    compiled = device == "cuda" and not arguments.skip_compile
    trace = _place_of_trace(arguments.output_dir)
    # A number given on the command line, or a GPU's default, is reduced only to fit the step's own time.
    short = device == "cpu" and arguments.iterations is None
    found: list[Measurement] = []
    with torch.inference_mode():
        work = operations(SHAPES[preset], device, compiled=compiled)
        iterations = _fitting(work, device, asked, budget(_ON_CPU_S) if short else whole)
        for operation in work:
            found += _timed(operation, device, iterations)
        kernels = _profiled(work, device, iterations, trace)
    for name, times in kernels.items():
        found += _largest(name, times, iterations, arguments.top)
    say(f"trace: {trace} (open in https://ui.perfetto.dev)")
    deadline_s = min(_NSYS_WHEN_SHORT_S if short else _NSYS_DEADLINE_S, whole.left)
    again = [f"--preset={preset}", f"--iterations={iterations}", *(["--compiled"] if compiled else [])]
    report = arguments.output_dir / trace.stem
    nsys = "skipped" if arguments.skip_nsys else under_nsys(report, again, deadline_s)
    say(f"nsys: {nsys}")
    return Findings(
        measurements=found,
        requested={"preset": arguments.preset, "skip_compile": arguments.skip_compile, "iterations": asked},
        effective={
            "preset": preset,
            "device": device,
            "compiled": compiled,
            "iterations": iterations,
            "product": fp8_product(device).described,
        },
        details={"trace": str(trace), "trace_bytes": trace.stat().st_size, "nsys": nsys},
    )


def _place_of_trace(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / "fp8_flexattention.json"
        place.touch()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}; choose another --output-dir"
        ) from error
    return place


def _fitting(work: Sequence[Operation], device: str, asked: int, allowance: Budget) -> int:
    """Iterations of each operation that fit into the time, at least one, at most `asked`."""
    seconds = 0.0
    for operation in work:
        operation.run()  # may compile
        seconds += seconds_of(operation.run, device)
    found = allowance.times(_PASSES * seconds, at_least=1, at_most=asked)
    if found < asked:
        say(f"ran {found} of {asked} iterations of each operation: time limit")
    return found


def _timed(operation: Operation, device: str, iterations: int) -> list[Measurement]:
    """Seconds and rate of one operation without a profiler, and the accuracy of its result.

    Raises:
        RunbookError: its result is not finite.
    """
    result = operation.run().float()
    if not bool(result.isfinite().all()):
        raise RunbookError(
            f"{operation.name}: its result is not finite; check the driver and the GPU's memory"
        )
    decibel = signal_to_noise(result, operation.exact(), most=math.inf)
    for _ in range(min(_WARM_UP_ITERATIONS, iterations)):
        operation.run()
    # The clock has ticks; an operation shorter than one would have no rate.
    seconds = [max(seconds_of(operation.run, device), _TICK_S) for _ in range(iterations)]
    label = {"operation": operation.name}
    found = [
        measured("operation_time", seconds, **label),
        measured("operation_rate", [operation.flops / second for second in seconds], **label),
    ]
    # Equal results, and exact values of zero, have no ratio.
    if math.isfinite(decibel):
        found.append(single("signal_to_noise", decibel, **label))
    say(f"{operation.name}: " + ", ".join(format_value(one.value, one.unit) for one in found))
    return found


def _profiled(
    work: Iterable[Operation], device: str, iterations: int, trace: Path
) -> Mapping[str, Mapping[str, float]]:
    """Seconds of every kernel, by operation; also writes the trace."""
    from torch.profiler import record_function

    def repeat(*operations: Operation) -> None:
        for operation in operations:
            for _ in range(iterations):
                with record_function(operation.name):
                    operation.run()

    kernels = {}
    for operation in work:
        # A separate profile, so that kernels that run after their call returns are assigned to the right operation.
        events = profile_of(partial(repeat, operation), device).events()
        found = _on_device(events) if device == "cuda" else _outermost(events, operation.name)
        if not found:
            say(
                f"{operation.name}: the profiler recorded no kernel; on a GPU, CUPTI may be missing or in use"
            )
        kernels[operation.name] = found
    # Both in one file, so that they can be compared.
    profile_of(partial(repeat, *work), device).export_chrome_trace(str(trace))
    if not trace.stat().st_size:
        raise RunbookError(f"the profiler left {trace} empty; is the disk full?")
    return kernels


def _on_device(events: Any) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for event in events:
        # A range marked on the host also appears on the device, but is not a kernel.
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            times[event.name] += event.self_device_time_total / 1e6
    return times


def _outermost(events: Any, operation: str) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for event in events:
        above = [caller.name for caller in callers(event)]
        inside = any(name.startswith("aten::") for name in above)
        if operation in above and event.name.startswith("aten::") and not inside:
            times[event.name] += event.cpu_time_total / 1e6
    return times


def _largest(operation: str, times: Mapping[str, float], iterations: int, top: int) -> list[Measurement]:
    total = sum(times.values())
    found: list[Measurement] = []
    for kernel, seconds in sorted(times.items(), key=lambda item: -item[1])[:top]:
        labels = {"operation": operation, "kernel": kernel[:_LONGEST_NAME]}
        if any(one.labels == labels for one in found):
            continue  # two names with the same kept prefix: the slower one is reported
        found.append(single("kernel_time", seconds / iterations, **labels))
        share = seconds / total if total else 0.0
        found.append(single("kernel_share", share, **labels))
        say(f"  {share:6.1%} {format_value(seconds / iterations, 's'):>9} {kernel[:_LONGEST_NAME]}")
    return found
