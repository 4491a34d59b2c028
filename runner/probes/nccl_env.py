"""The NCCL settings of this node, each with a verdict: unused NVLink is more often configured than broken.

Reads the environment, NCCL's files ($NCCL_CONF_FILE, else ~/.nccl.conf, and /etc/nccl.conf) and systemd's units; with
--running also the initial environment of every process that has NCCL loaded, with --pid only of that process. Nothing
is run and no GPU is accessed. A setting is the default, part of the system's description, harmless, tuning, a legacy
spelling, unknown, misspelt (no effect), or harmful for a job on `--nodes N` nodes. A name is misspelt if no known NCCL
version reads it and it is close to a name that one reads. If the NCCL in use is newer than the table, the name is
unknown; that is not a symptom.

Output: nccl_settings and harmful_settings (label nodes); details.findings has each setting, its effect and how to
remove it, details.nccl the NCCL versions that were found, details.unread what could not be read. Symptom: a setting is
harmful or misspelt.

Example:
    NCCL_P2P_DISABLE=1 python -m runner.probes.nccl_env
    python -m runner.probes.nccl_env --pid 4711 --nodes 2
    eval "$(python -m runner.probes.nccl_env --shell)"
"""

import argparse
import sys
from pathlib import Path

from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.undo import add_shell_option, undo_lines
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="number of nodes of the job (default 1)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--pid", type=int, nargs="+", metavar="PID", help="check these running processes, not this shell"
    )
    which.add_argument(
        "--running", action="store_true", help="also check every running process that has NCCL loaded"
    )
    parser.add_argument(
        "--units",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="folders of unit files to read (default: systemd's; --units alone: none)",
    )
    add_shell_option(parser)
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.nccl.report import nccl_findings

    return nccl_findings(arguments)


PROBE = Probe(
    "nccl_env",
    method_version=2,
    summary="Settings that affect NCCL, each with a verdict",
    metrics=(
        Metric(
            "harmful_settings",
            "1",
            "lower",
            "Settings judged harmful for the given number of nodes.",
            kind="count",
            label="Harmful NCCL settings",
        ),
        Metric(
            "nccl_settings",
            "1",
            None,
            "Settings that affect NCCL, from the environment and its configuration files.",
            kind="count",
            label="NCCL settings found",
        ),
    ),
    labels=("nodes",),
    parser=_parser,
    run=_run,
    shows=undo_lines,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
