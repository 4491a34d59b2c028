"""Real work under a limit that is too small, and the same work without it.

--limit chooses what is limited, --to how far. `shm`: a tmpfs of that size covers /dev/shm in a mount namespace of its
own, and two workers of a PyTorch DataLoader move 96 MiB of tensors that are kept; without torch, a segment of
shared memory is written. `nofile`: RLIMIT_NOFILE, and a DataLoader whose 128 small tensors are kept. `memlock`:
RLIMIT_MEMLOCK, and an mlock of 4 MiB. `memory`: a control group of its own with that memory limit, and an allocation
of 192 MiB. A limit binds a child process alone, and ends with it. If the work fails under the limit, it is repeated
without; if it fails there too, the probe cannot tell.

Output: limit_failed_work; for `memory` also killed_by_limit, if it failed, and free_shows_limit; details.last_line,
what a log would show. Symptom: the work failed under the limit. Not applicable: the limit cannot be set here.

Example:
    python -m runner.probes.limits_drill --limit shm --to 8MiB
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric

_LIMITS = ("shm", "nofile", "memlock", "memory")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument("--limit", choices=_LIMITS, required=True, help="what to limit")
    parser.add_argument(
        "--to",
        metavar="SIZE",
        help="the limit: bytes such as 8MiB, or a number of files (default: shm and memory 64MiB, nofile 40, "
        "memlock 64KiB)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.limits.drill import drill_limit

    return drill_limit(arguments)


PROBE = Probe(
    "limits_drill",
    method_version=1,
    summary="What real work does under a limit that is too small, and without it",
    metrics=(
        Metric(
            "limit_failed_work",
            "1",
            "lower",
            "1 if the work failed under the limit and was done without it, 0 if it was done under the limit.",
            kind="flag",
            label="The work failed under the limit",
        ),
        Metric(
            "killed_by_limit",
            "1",
            None,
            "1 if the failed work was ended by SIGKILL and its control group counted a kill for memory, else 0.",
            kind="flag",
            label="Killed by the memory limit",
        ),
        Metric(
            "free_shows_limit",
            "1",
            None,
            "1 if MemTotal, which `free` shows, is at most 1.05 × the memory limit of its control group, else 0.",
            kind="flag",
            label="MemTotal shows the limit",
        ),
    ),
    labels=("limit", "work"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
