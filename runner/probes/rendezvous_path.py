"""Whether this rank can meet the others: MASTER_ADDR and MASTER_PORT, the interfaces, the clock.

A rendezvous that fails ends with the same message whether the name does not resolve, nothing listens, or a firewall
drops packets. This probe looks at each, for this environment or for the process that `runbook diagnose --pid` names:
the addresses of MASTER_ADDR and how long the name took; whether they are this host's, if rank 0 runs here; who listens
at the port, or whether another host's port accepts a connection, which is closed at once; whether the interfaces of
NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME and TP_SOCKET_IFNAME are there and up; whether the clock is synchronised.

Output: rendezvous_obstacles; resolve_time (s), if the name resolves; details.obstacles, addresses, listeners, clock.
Symptom: there is an obstacle. Not applicable: MASTER_ADDR is not set. A clock without synchronisation is no obstacle.

Example:
    MASTER_ADDR=node-1 MASTER_PORT=29500 RANK=8 python -m runner.probes.rendezvous_path
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.rendezvous_path import path_findings

    del arguments
    return path_findings()


PROBE = Probe(
    "rendezvous_path",
    method_version=1,
    summary="Whether a rank can reach its rendezvous",
    metrics=(
        Metric(
            "rendezvous_obstacles",
            "1",
            "lower",
            "What keeps a rank from its rendezvous: name, address, port and interfaces, one each.",
            kind="count",
            label="Obstacles before the rendezvous",
        ),
        Metric(
            "resolve_time",
            "s",
            "lower",
            "Seconds until the name in MASTER_ADDR was resolved.",
            label="Time to resolve the master's name",
        ),
    ),
    parser=lambda: base_parser(__doc__),
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
