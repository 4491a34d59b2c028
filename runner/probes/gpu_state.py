"""The state of this node's GPUs as NVML reports it, compared with what their board should have.

One reading, which loads nothing and changes nothing; with --watch the same again each second, so that counters are
judged by their change, and with --load matrices are multiplied on each GPU meanwhile. Counters are totals since the
driver was loaded or since the board was made: an old error is not a fault of today. Each finding names what to do:
keep, restart (the job), reset (the GPU), drain (the node), or replace. What cannot be read is reported as not read, and
never as zero.

Output: node_faults, the number of findings that need something to be done; details.findings has each with where, what,
what to do and whose rule that is; details.not_read what is unknown. Symptom: at least one. Not applicable: no NVIDIA
GPU, or the group does not apply to these.

Example:
    python -m runner.probes.gpu_state --group memory
    python -m runner.probes.gpu_state --group clocks --watch 60 --load
    nvidia-smi -q | python -m runner.probes.gpu_state --group memory --from -
"""

import argparse
import sys

from runner.kit.options import add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.node.gpu import (
    clocks_metrics,
    fabric_metrics,
    links_metrics,
    memory_metrics,
    pcie_metrics,
    software_metrics,
)
from runner.vocabulary.shared import NODE_FAULTS


def _parser() -> argparse.ArgumentParser:
    from runner.kit.gpu_state import GROUPS

    parser = base_parser(__doc__)
    parser.add_argument("--group", choices=GROUPS, required=True, help="which facts to read and judge")
    add_numbers(parser, "S", {"--watch": (0, "read again each second for S seconds, and judge the change")})
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="judge another node's nvidia-smi output, pasted into FILE, instead of this node; - is standard input",
    )
    parser.add_argument(
        "--load",
        action="store_true",
        help="with --watch: multiply matrices on each GPU meanwhile (needs torch)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.apart import answer_apart
    from runner.kit.gpu_state import gpu_findings

    # A load needs CUDA in this process.
    return gpu_findings(arguments) if arguments.load else answer_apart(lambda: gpu_findings(arguments))


PROBE = Probe(
    "gpu_state",
    method_version=1,
    summary="State of the GPUs as NVML reports it, and what to do about it",
    metrics=(
        NODE_FAULTS,
        *memory_metrics.METRICS,
        *links_metrics.METRICS,
        *fabric_metrics.METRICS,
        *software_metrics.METRICS,
        *clocks_metrics.METRICS,
        *pcie_metrics.METRICS,
    ),
    labels=("group", "source", "gpu"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
