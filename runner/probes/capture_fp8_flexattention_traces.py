"""Trace FP8 GEMMs and flex attention: which kernels run, and for how long.

Physics. An FP8 GEMM of m×k by k×n takes 2mkn operations; FP8 tensor cores have twice the rate of BF16. Causal
attention over t tokens takes 2t² × width operations, because half of each GEMM is masked. A trace shows what a rate
does not: an unexpected kernel, or gaps between kernels in which the GPU is idle.

Each operation is timed separately, checked against fp32, and then run under torch's profiler. Open the trace, one JSON
file in Chrome's format, in https://ui.perfetto.dev (or in your own copy of it). If `nsys` is on PATH, the same work
also runs under it. On a CPU, `_scaled_mm` converts its operands and multiplies in a wider type, and flex attention is
eager: the code path is the same, but the rates do not apply to a GPU. If `_scaled_mm` fails or is far too slow on this
CPU, the same values are multiplied in fp32 and the operation is named e4m3_matmul_in_fp32, because its time is not that
of FP8. On a CPU the default number of iterations is reduced to fit about 8 s; see `effective.iterations`.

Output: operation_time (s), operation_rate (FLOP/s) and signal_to_noise (dB against fp32) with label operation;
kernel_time (s per iteration) and kernel_share of the slowest kernels, with labels operation and kernel. On a GPU,
kernels are device kernels; on a CPU, the outermost operators, because inner ones would be counted twice.

Example:
    python -m runner.probes.capture_fp8_flexattention_traces --output-dir artifacts/traces
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.base.units import format_value
from runner.kit.budget import Budget, budget, seconds_of
from runner.kit.options import add_counts, add_flags
from runner.kit.precision.linear import signal_to_noise
from runner.kit.precision.product import fp8_product
from runner.kit.probe import Findings, Probe, base_parser, measured, preset_of, say, single
from runner.kit.profiling import callers, profile_of
from runner.kit.traced_work import SHAPES, Operation, operations, under_nsys
from runner.kit.usable import usable_gpus
from runner.record.model import Measurement
from runner.vocabulary import shared
from runner.vocabulary.model import Compiles, Metric

_NSYS_DEADLINE_S, _NSYS_WHEN_SHORT_S = 120.0, 12.0
_LONGEST_NAME = 100
_ITERATIONS, _WARM_UP_ITERATIONS = 5, 3
_ON_CPU_S = 8.0
# Every iteration is timed, profiled separately, and profiled together with the other operation.
_PASSES = 3
_TICK_S = 1e-9


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("artifacts/traces"),
        metavar="DIR",
        help="folder for the trace (default artifacts/traces)",
    )
    said = f"iterations of each operation (default {_ITERATIONS}; on a CPU fewer if time is short)"
    add_counts(parser, {"--iterations": said, "--top": (5, "kernels to report per operation")})
    add_flags(
        parser,
        {
            "--skip-compile": "run flex attention in eager mode on a GPU too",
            "--skip-nsys": "do not run under nsys even if it is installed",
        },
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    import torch

    asked = _ITERATIONS if arguments.iterations is None else arguments.iterations
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


PROBE = Probe(
    "capture_fp8_flexattention_traces",
    method_version=2,
    summary="A trace of FP8 GEMMs and flex attention, and their slowest kernels",
    metrics=(
        Metric(
            "operation_time",
            "s",
            "lower",
            "Wall seconds of one operation, without a profiler.",
            label="Time of an operation",
        ),
        Metric(
            "operation_rate",
            "FLOP/s",
            "higher",
            "Operations that the arithmetic needs (a GEMM 2mkn, causal attention 2 × tokens² × width) ÷ seconds.",
            label="Arithmetic rate",
        ),
        shared.SIGNAL_TO_NOISE,
        Metric(
            "kernel_time",
            "s",
            "lower",
            "Seconds of one kernel per iteration of its operation, as profiled.",
            label="Time of a kernel",
        ),
        Metric(
            "kernel_share",
            "1",
            None,
            "Time of one kernel ÷ time of all kernels of its operation.",
            kind="share",
            label="Share of kernel time",
        ),
    ),
    labels=("operation", "kernel"),
    compiles=Compiles(unless=("--skip-compile",), on_cpu_with=()),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
