"""Check that every layer that should run in FP8 does, and that its scales are accurate.

Physics. E4M3 has 3 mantissa bits, which limits the signal-to-noise ratio of a well-scaled tensor to about 31 dB and of
a GEMM of two to about 28 dB. A scale that is too small saturates large inputs; one that is too large rounds small
inputs to zero. Both cost accuracy, and neither changes the type that the GEMM runs in. A layer that is not on the layer
list stays in BF16 and costs speed, silently. So the two faults are checked separately: which kernels ran in each layer,
and how each layer's FP8 output compares with fp32 on the same input.

    python -m runner.probes.fp8_transformer_engine
    python -m runner.probes.fp8_transformer_engine --recalibrate --output-json artifacts/fp8/recalibration.json
    python -m runner.probes.fp8_transformer_engine --recalibrate --recipe percentile --percentile 99.9
    python -m runner.probes.fp8_transformer_engine --scales artifacts/fp8/recalibration.json

The layers are this project's own (`torch._scaled_mm`, weights and activations in E4M3). If `_scaled_mm` fails or is far
too slow on this CPU, the same values are multiplied in fp32: `effective.product` and the label `product` name the
implementation, layers are then counted as quantised, and fp8_share, which is about FP8 kernels, is left out. Scales are
dynamic unless `--recalibrate` computes static ones or `--scales` loads them; with both, the old ones are "before", the
new ones "after". Only static and delayed scaling can be recalibrated: current (dynamic), blockwise and MXFP8 scaling
compute scales from the current tensor, and `--recalibrate --recipe mxfp8` reports that and does nothing. Calibration
uses 4 batches, on a CPU fewer to fit about 10 s; see `effective.calibration_batches`.
Exit status: 0 all layers in FP8 and accurate, 1 a layer is not, 2 bad input, 3 measurement failed, 80 not applicable.
"""

import argparse
import sys

from runner.kit.options import add_choices, add_counts, add_flags, add_numbers
from runner.kit.precision.metrics import LAYERS
from runner.kit.precision.options import NOTHING_TO_RECALIBRATE, RECIPES, add_work_arguments
from runner.kit.probe import Findings, Probe, base_parser

FAULTS = ("corrupted-scales", "bf16-layers")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_work_arguments(parser)
    add_flags(parser, {"--recalibrate": "calibrate static scales; the document then holds them for --scales"})
    recipes = (*RECIPES, *NOTHING_TO_RECALIBRATE)
    how = "how to compute a scale from the history of magnitudes (default max)"
    add_choices(parser, {"--recipe": (recipes, "max", how)})
    percentile = "percentile of a batch's magnitudes, for --recipe percentile"
    add_numbers(parser, "P", {"--percentile": (99.99, percentile)})
    batches = "calibration batches: the length of the history (default 4; on a CPU fewer if time is short)"
    add_counts(parser, {"--calibration-batches": batches})
    parser.add_argument("--inject", choices=FAULTS, help="inject a fault that the probe must find")
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.precision.layer_check import check_layers

    return check_layers(arguments)


PROBE = Probe(
    "fp8_transformer_engine",
    method_version=3,
    summary="Which layers ran in FP8, and how accurate their scales are",
    metrics=LAYERS,
    labels=("model", "tokens", "product", "of"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
