"""Options of the FP8 probes, and what these choose from. Importing this does not import the probes' work."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from runner.kit.options import BATCH_SIZE, add_counts, add_model

# With twelve windows per mode, a comparison of energy finds a change of 3 % with 1 % noise; the speed of a CPU is too
# noisy for twelve windows to help.
ROUNDS_WITH_ENERGY, ROUNDS = 6, 3
WINDOW_S = 0.2

RECIPES: Mapping[str, str] = {
    "max": "the largest magnitude in the history",
    "most-recent": "the magnitude of the last batch in the history",
    "percentile": "the largest percentile of magnitudes in the history; larger values saturate",
}
"""How a static scale is computed: the two of delayed scaling, and one that trades outliers for resolution."""

NOTHING_TO_RECALIBRATE: Mapping[str, str] = {
    "current": "current (dynamic) scaling computes its scale from the tensor that it quantises",
    "blockwise": "blockwise scaling computes a scale for each block from the current tensor",
    "mxfp8": "MXFP8 computes a power-of-two scale for every 32 numbers from the current tensor",
}
"""Recipes without stored scales, each with the reason."""


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--batch-size`, `--tokens` and `--scales`."""
    add_model(parser, "the largest that fits, up to the preset")
    add_counts(parser, {**BATCH_SIZE, "--tokens": "tokens per sequence (default 4096, on a CPU 128)"})
    parser.add_argument(
        "--scales",
        type=Path,
        metavar="FILE",
        help="static FP8 scales from fp8_transformer_engine --recalibrate (default: dynamic scales)",
    )
