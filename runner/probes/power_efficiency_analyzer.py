"""Compare two power sweeps: change of efficiency, its significance, and possible causes.

Quantity. If both sweeps read energy: tokens per joule of every mode. Else: the speed of every mode as a ratio to BF16
in the same sweep; the two were interleaved, so a slower machine slows both.

Test. Welch's t of the logarithms of a mode's windows; windows are then permuted between the two sweeps, in all modes
together, and the largest |t| of 999 permutations gives the null distribution. The probability of any false report is
1 % over all modes of a sweep. With 12 windows per mode (the default of a sweep with energy) and 1 % noise, a change of
3 % is found in more than 95 of 100 comparisons; with fewer than four windows, no change is found. A significant change
below `--tolerance` gives no verdict. A mode whose FP8 layers are of another library, or that was compiled in one sweep
only, did other work: its change is shown and not judged.

    python -m runner.probes.power_efficiency_analyzer before.json after.json
    python -m runner.probes.power_efficiency_analyzer                   # the newest two of artifacts/power
    python -m runner.probes.power_efficiency_analyzer --data site_data  # latest record against the first of its class

A file is the output of `precision_power_sweep --output-json`, or a record with such a step.
Exit status: 0 no regression shown, 1 regression, 2 bad input, 80 not applicable: no timed mode to compare.
"""

import argparse
import sys
from pathlib import Path

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric

FOLDER = Path("artifacts/power")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "sweeps",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="the sweep before and the sweep after (default: the newest two of --folder)",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help=f"folder with the sweeps (default {FOLDER})"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder; compare the latest record of fp8-power-regression with the first of its machine class",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="X",
        help="smallest relative change to report (default 0.01)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.precision.sweep_comparison import compare_sweeps

    return compare_sweeps(arguments)


PROBE = Probe(
    "power_efficiency_analyzer",
    method_version=2,
    summary="Two power sweeps compared, mode by mode",
    metrics=(
        Metric(
            "efficiency_change",
            "1",
            "higher",
            "A mode's efficiency after ÷ before (label: which measure), from geometric means.",
            label="Efficiency after ÷ before",
        ),
        Metric(
            "chance_probability",
            "1",
            None,
            "Probability that noise alone shows a change this large in any mode; a change is reported at 0.01 or less.",
            kind="share",
            label="Probability of a chance result",
        ),
    ),
    labels=("mode", "of"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
