"""Whether the next hang of a job can be diagnosed: settings of torch's watchdog and flight recorder that hide it.

A hang is diagnosed from what torch wrote before it ended the job. A flight recorder of size 0, a timeout that writes no
dump, a blocking wait without a watchdog, and a folder that cannot be written to leave nothing to read. This probe
judges the environment of a rank, or with --pid that of a running process. It does not tell whether a job hangs now:
`runbook hang` does. A variable that is not set has the default of the job's torch, which differs by version; it counts
only if the version is known and its default is off.

Output: hang_blind_spots; details.findings has each setting, what it hides and what to set, details.not_set what has the
default of the job's torch. Symptom: at least one. Not applicable: this environment is not that of a rank of several.

Example:
    python -m runner.probes.hang_readiness --pid 4711
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument("--pid", type=int, metavar="PID", help="check the environment of a running rank")
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.readiness import readiness_findings

    return readiness_findings(arguments)


PROBE = Probe(
    "hang_readiness",
    method_version=1,
    summary="Settings that hide the next hang of a job",
    metrics=(
        Metric(
            "hang_blind_spots",
            "1",
            "lower",
            "Settings of a job's environment that leave nothing to diagnose its next hang from.",
            kind="count",
            label="Settings that hide a hang",
        ),
    ),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
