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
import sys
from pathlib import Path

from runner.kit.options import add_counts, add_flags
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary import shared
from runner.vocabulary.model import Compiles, Metric

# The option has no default of its own: a number that was asked for is not reduced on a CPU.
_ITERATIONS = 5


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
    from runner.kit.kernel_traces import trace_findings

    return trace_findings(arguments, _ITERATIONS)


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
