"""Bandwidth of collectives over message sizes, between the GPUs of a node or several (NCCL) or processes (gloo).

Physics. A collective over n ranks moves more than its message: with the best algorithm, each rank sends and receives
2(n−1)/n of it in an all_reduce, (n−1)/n in an all_gather, reduce_scatter or all_to_all, and all of it in a broadcast.
Algorithm bandwidth is message bytes ÷ time of the slowest rank. Bus bandwidth is algorithm bandwidth × that factor; it
can be compared with the links and across rank counts (factors and byte counts as in nccl-tests' PERFORMANCE.md). Small
messages measure latency, large ones bandwidth, so a floor is valid only for one size and number of ranks.

Results are checked element by element on data whose sums are exact in fp32. With --compare-environment, a second set
of ranks runs without the caller's NCCL_* and GLOO_* variables, interleaved with the first; the ratio of the two, pair
by pair, separates a bad environment from bad wiring. NCCL's log shows which transport each arm used.

With --across-nodes in a step with `nodes=`, the ranks of all nodes form one set. The first node prints the result, with
the label nodes; the others print nothing. NCCL's log then shows the network between the nodes, and GPUDirect RDMA.

Output: collective_time (s, the median), collective_time_p95 (its 95th percentile), algorithm_bandwidth and
bus_bandwidth (B/s) with labels op, bytes, ranks, backend, arm (`caller` or `clean`); wrong_elements; environment_ratio;
nccl_channels by transport. Symptom: wrong elements; a ratio whose 95 % CI is below 0.9; or a transport other than P2P
although a clean environment uses P2P or every pair has NVLink; between nodes, sockets beside active RDMA ports, no
GPUDirect RDMA, or an error of the network in NCCL's log.

Example:
    python -m runner.probes.collectives --op all_reduce --sizes 256MiB 8GiB --compare-environment
"""

import argparse
import sys

from runner.kit.options import add_choices, add_counts, add_flags, add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary import shared
from runner.vocabulary.model import Metric

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--op", choices=OPS, nargs="+", default=["all_reduce"], help="collectives to run (default all_reduce)"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="message sizes, for example 256KiB 4MiB (default: by preset)",
    )
    add_counts(parser, {"--ranks": "number of ranks (default: the visible GPUs, or 2 without a GPU)"})
    backend = "communication backend (default auto: nccl with GPUs, else gloo)"
    add_choices(parser, {"--backend": (("auto", "gloo", "nccl"), "auto", backend)})
    add_counts(
        parser,
        {"--iterations": (20, "timed iterations per size"), "--warmup": (5, "untimed iterations per size")},
    )
    add_numbers(parser, "S", {"--timeout": (120.0, "deadline for the whole run in seconds")})
    add_counts(parser, {"--port": "rendezvous port of the ranks (default: a free port)"})
    said = "also run without the caller's NCCL_* and GLOO_* settings, interleaved, and report the ratio"
    across = "one set of ranks over all nodes of a joint job (RUNBOOK_NODES); --ranks is then the number on each node"
    add_flags(parser, {"--compare-environment": said, "--across-nodes": across})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.collective_comparison import collective_findings

    return collective_findings(arguments)


PROBE = Probe(
    "collectives",
    method_version=2,
    summary="Collective bandwidth over message sizes",
    metrics=(
        shared.BUS_BANDWIDTH,
        shared.ALGORITHM_BANDWIDTH,
        shared.COLLECTIVE_TIME,
        shared.COLLECTIVE_TIME_P95,
        shared.NCCL_CHANNELS,
        shared.WRONG_ELEMENTS,
        Metric(
            "environment_ratio",
            "1",
            "higher",
            "Bus bandwidth in the caller's environment ÷ in a clean one, in interleaved pairs.",
            label="Bandwidth against a clean environment",
        ),
    ),
    labels=("op", "bytes", "ranks", "nodes", "node", "backend", "arm", "transport"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
