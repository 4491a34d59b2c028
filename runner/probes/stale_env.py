"""What a multi-GPU launch left behind in the environment that a single-GPU server would inherit.

A rollback moves the traffic but rarely the shell, unit file or container that started the old job. torchrun exports
ranks, rendezvous and OMP_NUM_THREADS=1; people export NCCL_* and debugging switches. One process with WORLD_SIZE=8
waits for seven that never come; one with CUDA_LAUNCH_BLOCKING=1 or TORCHDYNAMO_DISABLE=1 runs, only slowly. Nothing
is run and no GPU is looked at.

Output: stale_variables, how many harm a single-GPU server; details.findings has each leftover, what it does, how bad
it is and the line that undoes it. Symptom: at least one is harmful (severity medium or high).

Example:
    python -m runner.probes.stale_env
    eval "$(python -m runner.probes.stale_env --shell)"
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from runner.probes.contract import Findings, Probe, base_parser, say, single
from runner.probes.stale_variables import Harm, Leftover, leftovers
from runner.probes.undo import add_shell_option, run_or_undo

# Values that can name no host, address or person.
_PLAIN = re.compile(r"-?[\d,]+|(?i:true|false|on|off|yes|no|nvl|sys)")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_shell_option(parser)
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    del arguments
    found = leftovers(os.environ, os.cpu_count() or 1)
    harmful = [leftover for leftover in found if leftover.harm is not Harm.LOW]
    for leftover in found:
        say(f"{leftover.harm:6} {leftover.name}: {leftover.does}; undo: {leftover.undo}")
    if not found:
        say("no leftovers of a multi-GPU launch in this environment")
    more = f" (and {len(harmful) - 1} more)" if len(harmful) > 1 else ""
    return Findings(
        measurements=[single("stale_variables", len(harmful))],
        status="symptom" if harmful else "ok",
        reason=f"{harmful[0].name} is left over: {harmful[0].does}{more}" if harmful else None,
        details={
            "findings": [_told(leftover) for leftover in found],
            "undo": [leftover.undo for leftover in found],
            "by_hand": [],
        },
    )


def _told(leftover: Leftover) -> dict[str, object]:
    return {
        "name": leftover.name,
        "value": leftover.value if _PLAIN.fullmatch(leftover.value) else None,
        "severity": str(leftover.harm),
        "does": leftover.does,
        "undo": leftover.undo,
    }


PROBE = Probe("stale_env", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_or_undo(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
