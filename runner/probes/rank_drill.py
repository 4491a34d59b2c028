"""Real ranks with one injected fault, found as `runbook hang` finds it, or by what the steps of each rank took.

Ranks over NCCL, or over gloo on a host without GPUs, run a small training step in a loop: a loader, a matmul whose
length is measured on this machine, and collectives on two groups. One of them has the fault. `skip` leaves out a
collective, `op` calls another one, `shape` calls it with another size, `late` sleeps or computes before it, `stop` is
stopped: this process waits until the others wait, looks at all of them and judges, without the knowledge of the rank.
With gloo, `shape` aborts a neighbour of the culprit: then the flight recorders of those that are left are judged.
`neighbour` keeps processes busy on one rank's core, or on its GPU, and compares compute times. `nan` puts a NaN into
one rank's gradient and counts before and after the reduction; then into a module of one rank that trains under
`runner.guards.nonfinite`, in DDP and in FSDP2. `flip` flips a bit in one rank's results or parameters while the ranks
of a DDP job vote; --vote lets healthy ones vote. `unknown-host`, `dead-port`, `held-port` and `large-world` are faults
of the rendezvous, by the call that joins a group. --timeouts runs a fault at several timeouts.

Output: culprit_named, wrong_certain, drill_faults (counts), hang_look_time (s), ras_healthy, ranks_complaining,
survived_timeout; compute_time and wait_time (s) by rank, compute_share, slowest_over_median, slow_ranks,
least_wait_is_slowest; nonfinite_ranks, nonfinite_ranks_after, module_named, changed_by_skip; votes_unknown,
job_state_changed; rendezvous_failure_time (s), same_message. Symptom: the fault was found. With `none`: something was
found in healthy ranks.

Example:
    python -m runner.probes.rank_drill --fault skip --ranks 4 --seed 2
"""

import argparse
import sys

from runner.kit.drill.defaults import FAULTS
from runner.kit.drill.metrics import METRICS
from runner.kit.options import add_choices, add_counts, add_flags, add_numbers
from runner.kit.probe import Findings, Probe, base_parser


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_choices(
        parser,
        {
            "--fault": (FAULTS, "none", "the fault to inject (default none)"),
            "--backend": (
                ("auto", "gloo", "nccl"),
                "auto",
                "communication backend (default auto: nccl with GPUs, else gloo)",
            ),
        },
    )
    add_counts(
        parser,
        {
            "--ranks": "number of ranks (default: the visible GPUs, or 3 over gloo)",
            "--seed": (0, "chooses the rank, the step and the place of the fault"),
            "--repeat": (1, "drills, with this seed and those that follow"),
            "--steps": (20, "steps of each of up to three runs, for none and neighbour"),
        },
    )
    add_numbers(
        parser,
        "S",
        {
            "--timeout": "timeout of the collectives or the rendezvous in seconds (default: by this machine's speed)",
            "--lateness": "seconds that a late or stopped rank stays away with --timeouts (default: between them)",
        },
    )
    parser.add_argument(
        "--timeouts",
        type=float,
        nargs="+",
        metavar="S",
        help="run the fault once at each of these timeouts, without a look, and see whether the job goes on",
    )
    add_flags(
        parser,
        {
            "--look-only": "end the ranks after the look; do not wait for what becomes of the job",
            "--vote": "for none and flip: let the ranks vote about their results, in place of a comparison of times",
        },
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.drill.findings import drill_findings

    return drill_findings(arguments)


PROBE = Probe(
    "rank_drill",
    method_version=1,
    summary="Whether an injected fault of one rank is found, and what it does to the others",
    metrics=METRICS,
    labels=("fault", "ranks", "backend", "rank", "role", "timeout", "parallel"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
