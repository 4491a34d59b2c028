"""Leftovers of a multi-GPU launch in the environment that a single-GPU server would inherit.

A rollback often keeps the shell, unit file, pod spec or container of the old job. torchrun exports ranks, rendezvous
and OMP_NUM_THREADS=1 into its child processes; scripts export NCCL_* and debugging switches. One process with
WORLD_SIZE=8 waits for seven ranks that do not exist; one with CUDA_LAUNCH_BLOCKING=1 or TORCHDYNAMO_DISABLE=1 runs
slowly. The probe checks this environment, or with --pid that of a running server, and with --config the sizes in its
configuration file. Nothing is run; on a host with GPUs, their NUMA placement is read.

Output: stale_variables, the number that harm a single-GPU server; details.findings has each leftover, its effect, its
severity and how to remove it. Symptom: at least one is harmful (severity medium or high).

Example:
    python -m runner.probes.stale_env
    python -m runner.probes.stale_env --pid 4711 --config serve.yaml
    eval "$(python -m runner.probes.stale_env --shell)"
"""

import argparse
import sys
from pathlib import Path

from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.undo import add_shell_option, undo_lines
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument("--pid", type=int, metavar="PID", help="check the environment of a running server")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="also check a serving configuration (YAML or JSON) for tensor-parallel sizes",
    )
    add_shell_option(parser)
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.leftovers.report import leftover_findings

    return leftover_findings(arguments)


PROBE = Probe(
    "stale_env",
    method_version=1,
    summary="Variables that a multi-GPU launch left in the environment",
    metrics=(
        Metric(
            "stale_variables",
            "1",
            "lower",
            "Variables left by a multi-GPU launch that harm a single-GPU server.",
            kind="count",
            label="Harmful leftover variables",
        ),
    ),
    parser=_parser,
    run=_run,
    shows=undo_lines,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
