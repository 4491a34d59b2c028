"""Where the time of a compile is spent: in the call of torch.compile, or in the first forward.

Physics: torch.compile(model) returns a wrapper and compiles nothing. Dynamo traces and Inductor compiles when that
wrapper is called for the first time. A timeout around the call of torch.compile alone has therefore ended before the
compile begins.

One small module is compiled on the first device of this host, from an empty cache, after torch and Inductor have been
imported and Inductor's compile workers are ready: imports would otherwise count as part of the call, and the start of
the workers as part of the first forward.

Output: compile_call_time and first_forward_time (s), and compile_call_share, the call's part of their sum. The details
count the graphs that were compiled by then. There is no symptom.

Example:
    python -m runner.probes.compile_call
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Compiles, Metric


def _parser() -> argparse.ArgumentParser:
    return base_parser(__doc__)


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.repro.call_time import call_findings

    return call_findings(arguments)


PROBE = Probe(
    "compile_call",
    method_version=1,
    summary="Time in the call of torch.compile, and time of the first forward, which compiles",
    metrics=(
        Metric(
            "compile_call_share",
            "1",
            None,
            "Seconds in the call of torch.compile ÷ those seconds plus the first forward's; near 0 for a lazy call.",
            kind="share",
            label="Share of the call of torch.compile",
        ),
        Metric(
            "compile_call_time",
            "s",
            "lower",
            "Wall seconds in the call of torch.compile itself.",
            label="Call of torch.compile",
        ),
        Metric(
            "first_forward_time",
            "s",
            "lower",
            "Wall seconds of the first forward after torch.compile, from an empty cache; the compile included.",
            label="First forward",
        ),
    ),
    compiles=Compiles(unless=()),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
