"""Compare precisions on the same work: time, energy and accuracy of a token in each.

Physics. A prefill of many tokens is bound by GEMMs, 2 × parameters floating-point operations per token. FP8 halves the
bytes and, on FP8 tensor cores, doubles the rate. Quantising costs extra passes over the activations, so FP8 is faster
only if these are fused (`torch.compile`). Energy is power × time: an FP8 mode that is slower than BF16, or that did not
run in FP8, has fewer tokens per joule. An idle GPU draws a large share of its power, so joules are given with and
without idle power.

    python -m runner.probes.precision_power_sweep --modes fp16 bf16 fp8 fp8_te
    python -m runner.probes.precision_power_sweep --modes bf16 fp8 --scales artifacts/fp8/recalibration.json
    python -m runner.probes.precision_power_sweep --price-per-kwh 0.12 --pue 1.3

Every mode reads the same tokens with the same weights, in windows in ABBA order, after a warm-up. Energy comes from the
hardware's counter; without a counter it is absent, with the reason, and so is a window in which the counter was
unreliable. `fp8` is torchao's dynamic row-wise FP8 on a GPU with compute capability 8.9 or later, and this project's
own layer on a CPU and with `--scales`; `fp8_te` is Transformer Engine's. A mode that cannot run reports why. The GEMM
kernels of each FP8 mode are checked: if an FP8 mode's GEMMs ran in non-FP8 kernels, the step fails (unrequested
fallback). If the native FP8 GEMM fails or is far too slow on this CPU, `fp8` multiplies the same values in fp32:
`effective` reports that, its accuracy is measured, and its speed and energy, which would not be those of FP8, are left
out.

signal_to_noise is that of the whole model, where noise grows from block to block. It compares modes on one work, and no
bound applies to it; `fp8_transformer_engine` judges each layer.

The number of windows is reduced on a CPU to fit about 12 s by default, and everywhere to fit the step's time; see
`effective.windows`. On a GPU, windows with energy come first: idle power is measured after them, and models are not
compiled if that would leave no time for the windows; fp16 is left out if only that leaves it. `energy_ratio` states
whether both models were compiled, because FP8 in eager is not FP8 as it is served.
Exit status: 0 measured, 2 bad input, 3 measurement failed, 80 not applicable.
"""

import argparse
import sys

from runner.kit.compile_options import add_compile_arguments
from runner.kit.options import add_counts, add_numbers
from runner.kit.precision.metrics import SWEEP
from runner.kit.precision.options import ROUNDS, ROUNDS_WITH_ENERGY, WINDOW_S, add_work_arguments
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Compiles

MODES = ("fp16", "bf16", "fp8", "fp8_te")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="precisions to compare (default: all)"
    )
    add_work_arguments(parser)
    rounds = (
        "ABBA rounds, with two windows per mode each"
        f" (default {ROUNDS_WITH_ENERGY} with an energy counter, else {ROUNDS}; on a CPU fewer if time is short)"
    )
    add_counts(parser, {"--rounds": rounds})
    window = f"seconds per window (default {WINDOW_S:g}; with a GPU's energy counter 5)"
    add_numbers(parser, "S", {"--window": window})
    add_numbers(
        parser,
        "X",
        {
            "--price-per-kwh": "price of a kWh in any currency (default: report no cost)",
            "--pue": (1.0, "power usage effectiveness, for the cost"),
        },
    )
    # On a CPU, compiling takes longer than it saves, so by default only a GPU compiles.
    add_compile_arguments(parser, default="on a GPU per-block, else eager; on a CPU eager")
    add_numbers(parser, "S", {"--compile-deadline": (240.0, "deadline of compiling each mode in seconds")})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.precision.power_sweep import sweep_power

    return sweep_power(arguments)


PROBE = Probe(
    "precision_power_sweep",
    method_version=3,
    summary="Speed, energy and accuracy of a prefill in each precision, interleaved",
    metrics=SWEEP,
    labels=("model", "batch_size", "tokens", "mode", "compiled", "price_per_kwh", "pue"),
    # The entry's question is one of energy; without a counter, speed is what is left.
    compiles=Compiles(on_cpu_with=("--compile-mode",)),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
