"""Copy bandwidth between each pair of GPUs, between host and GPU, and within a GPU; without GPUs, within the host.

Physics. With peer access, a copy between GPUs uses all NVLinks of the pair (18 × 50 GB/s each way on B200); without, it
goes through host memory at PCIe speed. One slow pair means a bad link; if all are slow, the path is wrong. A copy
between host and GPU is bound by PCIe, and from pageable memory also by the driver's staging copy. A copy within one
memory reads and writes each byte, so it moves twice its bytes; that number is compared with the board's peak. NCCL is
not involved, so no NCCL setting changes a number: if all pairs are fast but a collective is slow, suspect NCCL.

Output: copy_bandwidth (B/s) with labels copy (`pair`, `host_to_device`, `device_to_host`, `within`), bytes and, as they
apply, source, target, host (`pinned`, `pageable`); peak_share for known boards; slowest_pair and pair_spread
(slowest ÷ median); wrong_elements of the copied data. Symptom: wrong elements, or a pair whose 95 % CI is below 0.7 of
the median.

Example:
    python -m runner.probes.memory_bandwidth --size 256MiB
"""

import argparse
import sys

from runner.kit.options import add_counts
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary import shared
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument("--size", default="256MiB", metavar="SIZE", help="size of a copy (default 256MiB)")
    add_counts(
        parser,
        {"--iterations": (20, "timed iterations per copy"), "--warmup": (3, "untimed iterations per copy")},
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.copy_bandwidth import copy_findings

    return copy_findings(arguments)


PROBE = Probe(
    "memory_bandwidth",
    method_version=1,
    summary="Copies between GPUs, between host and GPU, and within one memory",
    metrics=(
        Metric(
            "slowest_pair",
            "B/s",
            "higher",
            "copy_bandwidth of the slowest pair of GPUs.",
            label="Slowest pair of GPUs",
            ceiling="links",
        ),
        shared.COPY_BANDWIDTH,
        Metric(
            "peak_share",
            "1",
            "higher",
            "copy_bandwidth ÷ the peak bandwidth of the board's memory or NVLinks.",
            label="Share of peak bandwidth",
        ),
        Metric(
            "pair_spread",
            "1",
            "higher",
            "copy_bandwidth of the slowest pair ÷ that of the median pair; near 1 on a healthy mesh.",
            kind="share",
            label="Slowest pair over median pair",
        ),
        shared.WRONG_ELEMENTS,
    ),
    labels=("copy", "source", "target", "host", "bytes"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
