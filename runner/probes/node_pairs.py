"""Bandwidth between nodes in pairs, to name the node whose links are slow among many.

Runs in a step with `nodes=`, on all nodes of a joint job. First pass: all nodes at once, in disjoint pairs, each node
with two different partners (all_reduce over the ranks of both). A fast pair clears both of its nodes. Second pass: each
node that is not cleared, with a node that is. If that pair is slow too, the node is named. With two nodes a pair can be
slow and no node can be named; if all pairs are alike, only --expect can tell that all are slow. Pairs across leaf
switches may be slower than others by design: choose nodes of one leaf, or a lower --slow-below.

--slow-node injects a fault: the ranks of that node wait before each all_reduce as long as a link of --slow-rate would
take. Nodes are counted from 0, in the order of scontrol show hostnames. The first node prints the result.

Output: pair_bandwidth (B/s, the median of the first pass), slowest_pair_ratio, slow_pairs, slow_nodes (counts);
slow_node_named (1 or 0) with an injected fault; nccl_channels by network. Symptom: a slow pair.

Example:
    python -m runner.probes.node_pairs --size 1GiB
"""

import argparse
import sys

from runner.kit.options import add_choices, add_counts, add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import NCCL_CHANNELS


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    backend = "communication backend (default auto: nccl with GPUs, else gloo)"
    add_choices(parser, {"--backend": (("auto", "gloo", "nccl"), "auto", backend)})
    add_counts(
        parser,
        {
            "--ranks": "ranks on each node (default: its visible GPUs, or 1 over gloo)",
            "--iterations": (10, "timed iterations of a pair"),
            "--slow-node": "inject a fault: make this node slow",
        },
    )
    add_numbers(
        parser,
        "X",
        {"--slow-below": "a pair is slow below this share of the others (default 0.8; 0.3 over gloo)"},
    )
    add_numbers(parser, "S", {"--timeout": (300.0, "deadline for the whole run in seconds")})
    parser.add_argument("--size", metavar="SIZE", help="message size (default 256MiB; 1MiB over gloo)")
    parser.add_argument(
        "--expect", metavar="SIZE", help="bus bandwidth that a pair should reach, a second: 300GB"
    )
    parser.add_argument(
        "--slow-rate", metavar="SIZE", default="1MiB", help="of --slow-node, a second (default 1MiB)"
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.pairs.search import pair_findings

    return pair_findings(arguments)


PROBE = Probe(
    "node_pairs",
    method_version=1,
    summary="Bandwidth between nodes in pairs, and which node is slow",
    metrics=(
        Metric(
            "pair_bandwidth",
            "B/s",
            "higher",
            "Bus bandwidth of an all_reduce over the ranks of two nodes, all pairs at once; one sample a pair.",
            label="Bandwidth of a pair of nodes",
            ceiling="links",
        ),
        Metric(
            "slowest_pair_ratio",
            "1",
            "higher",
            "Bandwidth of the slowest pair ÷ what a fifth of the pairs reach.",
            label="Slowest pair ÷ the others",
        ),
        Metric(
            "slow_pairs",
            "1",
            "lower",
            "Slow pairs of which no node is named.",
            kind="count",
            label="Slow pairs without a named node",
        ),
        Metric("slow_nodes", "1", "lower", "Nodes that are named as slow.", kind="count", label="Slow nodes"),
        Metric(
            "slow_node_named",
            "1",
            "higher",
            "1 if the node with the injected fault is named, and no other; else 0.",
            kind="flag",
            label="The slow node was named",
        ),
        NCCL_CHANNELS,
    ),
    labels=("backend", "nodes", "bytes", "injected", "transport", "arm", "ranks"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
