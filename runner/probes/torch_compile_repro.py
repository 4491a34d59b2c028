"""Compile a stack of transformer blocks under a guard, measure it, and keep a bundle for a bug report.

Physics. Compile time depends on the size of the traced graph: the number of operations, and so of distinct blocks. It
hardly depends on the number of parameters, because a wide block has the same operations as a narrow one. A healthy
compile also shows a fully busy CPU and an idle GPU. Progress tells slow from stuck: stacks, cache and compiler
processes are observed twice, at different times.

Each compile runs in a child process with an empty cache; at the deadline its stacks are saved and the child and all its
processes are killed. --preset sets the size of the stack; weights are random. Per block, only one block of each kind is
allocated: the 70b stack then needs 4 GB.

Output: seconds (wall and CPU) of the compile with its first forward, CPU share, cache bytes, peak resident memory,
graph breaks, recompiles, and the difference of the compiled output from eager's. Symptom: the compile did not finish by
the deadline in the requested mode. With `--compile-mode smart`, the ladder continues with one block at a time, one
compile thread and eager, and the symptom is that even eager failed. After `--`, any command is run instead, traced and
monitored with the same deadline; the symptom is that it did not finish.

    python -m runner.probes.torch_compile_repro --compile-mode whole --deadline 120
    python -m runner.probes.torch_compile_repro --output-dir artifacts/torch_compile_repro --inject-stall --deadline 10
    python -m runner.probes.torch_compile_repro --output-dir artifacts/torch_compile_repro -- python serve.py
    python -m runner.probes.torch_compile_repro --look 3
"""

import argparse
import math
import sys
from pathlib import Path

from runner.base.errors import InputError
from runner.base.units import parse_bytes
from runner.kit.compile_options import Stall, add_compile_arguments
from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.repro.metrics import REPRO
from runner.vocabulary.model import Compiles


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_compile_arguments(parser)
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write the bundle, one zip file, into DIR (created if missing)",
    )
    parser.add_argument(
        "--deadline",
        type=_positive,
        metavar="SECONDS",
        help="time limit in seconds for all rungs of the ladder together, from when the first one begins to compile"
        " (default: by preset; 900 for a command, from its start)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        metavar="SIZE",
        help="limit on the additional address space of a compiling process, on a host without GPUs (default: none)",
    )
    parser.add_argument(
        "--backward", action="store_true", help="also compile and run a backward pass, and compare gradients"
    )
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks in the stack (default: the preset's)")
    parser.add_argument(
        "--inject-stall",
        nargs="?",
        const=Stall.EVERY_GRAPH.value,
        choices=[kind.value for kind in Stall],
        help="drill: make the compiler hang with a busy CPU, on every graph or only on the whole model",
    )
    parser.add_argument(
        "--warm-start",
        action="store_true",
        help="compile again in a second child that starts from the first one's cache",
    )
    parser.add_argument(
        "--look",
        type=_positive,
        metavar="SECONDS",
        help="do not compile; observe the processes on this node that have torch loaded for S seconds, read-only",
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="-- COMMAND",
        help="after `--`: run this command instead, traced and monitored",
    )
    return parser


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.repro.stack_compile import stack_findings

    return stack_findings(arguments)


PROBE = Probe(
    "torch_compile_repro",
    method_version=2,
    summary="A guarded torch.compile of a block stack, with a bundle for a bug report",
    metrics=REPRO,
    labels=("preset", "mode", "ended", "start"),
    # After `--` comes the reader's own program. An injected stall stops the compile before the compiler.
    compiles=Compiles(unless=("--look", "--skip-compile", "--compile-mode=eager", "--", "--inject-stall")),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
