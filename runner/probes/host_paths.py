"""What /proc, /sys and the control groups tell of this host, compared with what a node for large models needs.

Reads and changes nothing. Groups: `cpu` (cores and quotas; with --watch, whether a process lacks them), `limits`
(shared memory, locked memory, open files, processes, the control group's memory), `pci` (link speed and width up the
tree, NUMA nodes, ACS and IOMMU), `rdma` (ports, rates, counters, GPUDirect), `settings` (versions and modes that
should be equal on all nodes of a fleet; none is a fault) and `storage` (space, requests of NFS mounts, blocked
processes). With --pid the limits are those of a running process, which may differ from this shell's; with --watch
counters are judged by their change. With --root the files come from a tree that --capture wrote on another node. A
captured tree holds what the group reads and no more; of `pci` that includes the configuration space of the devices,
with serial numbers of adapters.

Output: node_faults, the number of findings that need something to be done; details.findings has each with where, what,
what to do and whose rule that is; details.not_read what is unknown. Symptom: at least one. Not applicable: the group
does not apply to this host.

Example:
    python -m runner.probes.host_paths --group limits --pid 4711
    python -m runner.probes.host_paths --group rdma --capture captured/
    python -m runner.probes.host_paths --group rdma --root captured/
"""

import argparse
import sys
from pathlib import Path

from runner.kit.options import add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.node.host import cpu_metrics, limits_metrics, pci_metrics, rdma_metrics, storage_metrics
from runner.vocabulary.shared import NODE_FAULTS


def _parser() -> argparse.ArgumentParser:
    from runner.kit.host_paths import GROUPS

    parser = base_parser(__doc__)
    parser.add_argument("--group", choices=GROUPS, required=True, help="which facts to read and judge")
    parser.add_argument("--pid", type=int, metavar="PID", help="judge the limits of a running process")
    add_numbers(parser, "S", {"--watch": (0, "read again after S seconds, and judge the change")})
    parser.add_argument("--root", type=Path, metavar="DIR", help="read a captured tree instead of this host")
    parser.add_argument(
        "--capture",
        type=Path,
        metavar="DIR",
        help="also copy the files that the group reads into a new folder",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.host_paths import host_findings

    return host_findings(arguments)


PROBE = Probe(
    "host_paths",
    method_version=1,
    summary="Cores, limits, PCIe tree, RDMA ports and storage of this host, and what to do about them",
    metrics=(
        NODE_FAULTS,
        *cpu_metrics.METRICS,
        *limits_metrics.METRICS,
        *pci_metrics.METRICS,
        *rdma_metrics.METRICS,
        *storage_metrics.METRICS,
    ),
    labels=("group", "source", "gpu", "port", "device", "op"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
