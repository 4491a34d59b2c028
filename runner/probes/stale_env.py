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
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from runner.base.plain import visible_line
from runner.base.remedy import Remedy
from runner.hardware.visible import NAME
from runner.kit.judged import environment_of, judged_pid
from runner.kit.leftovers.serving_config import read_sizes
from runner.kit.leftovers.variables import Harm, Leftover, leftovers
from runner.kit.leftovers.visibility import cpu_nodes, gpu_nodes, own_cpus, remarks
from runner.kit.probe import Findings, Probe, base_parser, say, single
from runner.kit.undo import add_shell_option, undo_details, undo_lines
from runner.vocabulary.model import Metric

# Values that cannot contain a host name, address or user name.
_PLAIN = re.compile(r"-?[\d,]+|(?i:true|false|on|off|yes|no|nvl|sys)")


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
    pid = arguments.pid if arguments.pid is not None else judged_pid()
    environment = os.environ if pid is None else environment_of(pid)
    found = leftovers(environment, os.cpu_count() or 1, pid)
    by_hand = _sizes(arguments.config) + _pin(environment, pid or 0)
    harmful = [leftover for leftover in [*found, *by_hand] if leftover.harm is not Harm.LOW]
    for leftover in [*found, *by_hand]:
        say(visible_line(f"{leftover.harm:6} {leftover.name}: {leftover.does}; undo: {leftover.undo}"))
    if not found and not by_hand:
        where = "this environment" if pid is None else f"the environment of process {pid}"
        sizes = (
            "" if arguments.config is None else f", and no tensor-parallel size above 1 in {arguments.config}"
        )
        say(visible_line(f"no leftovers of a multi-GPU launch in {where}{sizes}"))
    more = f" (and {len(harmful) - 1} more)" if len(harmful) > 1 else ""
    return Findings(
        measurements=[single("stale_variables", len(harmful))],
        status="symptom" if harmful else "ok",
        reason=visible_line(f"leftover {harmful[0].name}: {harmful[0].does}{more}") if harmful else None,
        requested={"of": "this environment" if pid is None else "a running process"},
        details={
            "findings": [_as_dict(leftover) for leftover in [*found, *by_hand]],
            **undo_details(leftover.undo for leftover in [*found, *by_hand]),
        },
    )


def _sizes(config: Path | None) -> list[Leftover]:
    if config is None:
        return []
    return [
        Leftover(
            size.key,
            str(size.value),
            Harm.HIGH,
            f"the configuration requests {size.value} GPUs (line {size.line})",
            Remedy.by_hand("change {} to 1 in {}, line {}", size.key, config.name, str(size.line)),
        )
        for size in read_sizes(config)
    ]


def _pin(environment: Mapping[str, str], pid: int) -> list[Leftover]:
    own, nodes = cpu_nodes(own_cpus(pid))
    return remarks(environment.get(NAME), gpu_nodes(), own, nodes)


def _as_dict(leftover: Leftover) -> dict[str, object]:
    return {
        "name": leftover.name,
        "value": leftover.value if _PLAIN.fullmatch(leftover.value) else None,
        "severity": str(leftover.harm),
        "does": leftover.does,
        "undo": leftover.undo.text,
    }


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
