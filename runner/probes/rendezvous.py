"""Whether one process starts in this environment, or waits in rendezvous for ranks that do not exist.

A server written for several GPUs joins a process group if its environment describes one: WORLD_SIZE, RANK,
MASTER_ADDR, MASTER_PORT. With a leftover WORLD_SIZE=8, the single process waits for seven others, by default for ten
minutes or more, without load on CPU or GPU and without a message. This probe runs the same call (`init_process_group`
with gloo) in a child process with a deadline. Do not use it if MASTER_ADDR names a live job: the child would try to
join it.

Output: rendezvous_time (s), if the process joined a group; details.ending: `alone` (no group is configured),
`joined`, `waiting` or `failed`. Symptom: it is still waiting at the deadline, or fails.

Example:
    WORLD_SIZE=8 RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m runner.probes.rendezvous --deadline 10
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--deadline",
        type=float,
        default=20.0,
        metavar="S",
        help="time limit of joining in seconds, after torch is loaded (default 20)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.rendezvous import rendezvous_findings

    return rendezvous_findings(arguments)


PROBE = Probe(
    "rendezvous",
    method_version=1,
    summary="Whether one process starts, or waits for ranks that do not exist",
    metrics=(
        Metric(
            "rendezvous_time",
            "s",
            "lower",
            "Seconds from the call that joins a process group until it has joined.",
            label="Rendezvous time",
        ),
    ),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
