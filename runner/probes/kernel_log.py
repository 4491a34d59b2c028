"""Xids, SXids and other faults in a kernel log, and what to do about them: keep, restart, reset, drain or replace.

Reads this node's kernel log, its journal, or a text that was captured anywhere. Each Xid is judged by NVIDIA's catalog;
an Xid 154, the driver's own recovery action, decides over it. Cause is told from consequence, and errors of programs
from those of one GPU. Of this node's log only lines that the kernel wrote count; with --drill only those that a drill
wrote, which begin with `runbook drill: `. A log that cannot be read is unknown, never fine; so is a code that nothing
tells how to judge.

Output: node_faults, the number of findings that need something to be done; xid_events, Xids by code and GPU;
xid_unknown, codes that are in no table; details.findings has each finding with where, what, what to do and whose rule
that is. Symptom: at least one fault. Not applicable: asked about GPUs on a host without any.

Example:
    python -m runner.probes.kernel_log --about gpu
    dmesg | python -m runner.probes.kernel_log --from -
    python -m runner.probes.kernel_log --journal --boot -1
"""

import argparse
import sys

from runner.kit.options import add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import NODE_FAULTS

METRICS = (
    Metric(
        "xid_events",
        "1",
        "lower",
        "Lines of one Xid about one GPU in the kernel log that was read, whatever they ask for.",
        kind="count",
        label="Xids",
    ),
    Metric(
        "xid_unknown",
        "1",
        "lower",
        "Different codes of Xids and SXids in the log that are in no table of this project.",
        kind="count",
        label="Unknown Xid codes",
    ),
)


def _parser() -> argparse.ArgumentParser:
    from runner.kit.kernel_log import ABOUT

    parser = base_parser(__doc__)
    parser.add_argument("--about", choices=ABOUT, default="all", help="which events to judge (default all)")
    parser.add_argument(
        "--from", dest="log", metavar="FILE", help="read a captured log; - for standard input"
    )
    parser.add_argument(
        "--journal", action="store_true", help="read journalctl instead of the kernel's buffer"
    )
    parser.add_argument(
        "--boot", type=int, metavar="N", help="with --journal: -1 for the start before this one"
    )
    parser.add_argument(
        "--drill", action="store_true", help="count only lines that a drill wrote into the log"
    )
    add_numbers(
        parser,
        "S",
        {
            "--since": "leave out events that are older than S seconds (default: the whole log)",
            "--watch": (0, "wait S seconds, and judge only what came meanwhile"),
        },
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.kernel_log import log_findings

    return log_findings(arguments)


PROBE = Probe(
    "kernel_log",
    method_version=1,
    summary="Xids and other faults in a kernel log, and what to do about them",
    metrics=(NODE_FAULTS, *METRICS),
    labels=("about", "source", "code", "gpu"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
