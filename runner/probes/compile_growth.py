"""What makes compile time grow: the number of operations in the graph, or the number of parameters of the model.

Physics: Inductor compiles the graph. A value that is used n times may be recomputed at each use, so in a repeated
`x = x * sin(x) + x` the expression of a kernel triples with each turn, and so does the compiler's work. A wider layer
has the same operations as a narrow one: its weights are inputs of the graph, and of an input the compiler sees only
shape, strides and type.

Two curves of real compiles, one after another in a guarded child process, each from an empty cache. The one-time cost
of a first compile (headers, CPU feature detection) is paid by a small graph before. `operations`: a chain of such
turns, three operations each, without parameters. `parameters`: a stack of four transformer blocks of growing width, up
to more than 40e9 parameters; its weights are allocated but never touched: address space and, on a CPU, no RAM.

The time of a larger size is estimated from the one before (three times as much for each turn); sizes that would end
later than --within allows are left out and reported.

Output: CPU seconds in the compiler (the model's own forward is excluded) at each size; the exponent p of
time ~ size^p by least squares, with R² of that fit; and, on the curve of operations, whether a constant plus an
exponential fits better, with its factor per turn. Symptom: p above 1 in every requested mode.

    python -m runner.probes.compile_growth --curve operations --sizes 3 5 7
    python -m runner.probes.compile_growth --curve operations --sizes 7 --modes whole per-block
    python -m runner.probes.compile_growth --curve parameters
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.repro.growing_models import ALWAYS, CURVE_SIZES
from runner.kit.repro.metrics import GROWTH
from runner.vocabulary.model import Compiles

_DEADLINE_S, _WITHIN_S = 600.0, 900.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--curve", choices=tuple(CURVE_SIZES), required=True, help="quantity that grows along the curve"
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="turns of the chain, or widths of the stack (default: by curve)",
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("whole", "per-block"),
        default=["whole"],
        help="compile modes (default: whole)",
    )
    parser.add_argument(
        "--within",
        type=float,
        default=_WITHIN_S,
        metavar="SECONDS",
        help=f"time limit of compiling; sizes that would exceed it are left out, the {ALWAYS} smallest always run"
        f" (default: {_WITHIN_S:g}, or the time of the step)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=_DEADLINE_S,
        metavar="SECONDS",
        help=f"deadline of each compile (default: {_DEADLINE_S:g}, or the time of the step)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.repro.growth_curve import growth_findings

    return growth_findings(arguments)


PROBE = Probe(
    "compile_growth",
    method_version=2,
    summary="Compile time against the operations of a graph and against the parameters of a model",
    metrics=GROWTH,
    labels=("mode", "turns", "width", "curve", "law"),
    compiles=Compiles(unless=()),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
