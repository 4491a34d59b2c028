"""Recompiles, recompile limits and graph breaks in the log of a job, counted by function and reason.

Reads a log of a job that ran with TORCH_LOGS=recompiles,graph_breaks; without that variable a log has only the limits
that were reached. The first recompile of a function, to dynamic shapes, is normal: a cause counts as a finding from
three recompiles of one function for one reason in one process. Numbers in a reason do not count, so that sizes that
differ are one cause. A log without a line of a recompile or limit is unknown, and not healthy, also if it has graph
breaks: --logged says that the variable was set.

Output: recompiles_logged, frames_given_up, graph_breaks and recompiles_of_one_cause; details.causes has each function
with its reason. Symptom: a function reached the limit, or a cause counts.

Example:
    python -m runner.probes.recompile_log --from job.log
"""

import argparse
import sys
from pathlib import Path

from runner.base.errors import RunbookError
from runner.base.words import counted
from runner.kit.options import add_flags
from runner.kit.probe import Findings, Probe, base_parser, say, single
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import FRAMES_GIVEN_UP, GRAPH_BREAKS

REPEATED = 3
"""Recompiles of one function for one reason that are more than ordinary: two dimensions that vary cause two."""

_LARGEST_TEXT = 64 << 20
_SHOWN = 20


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--from", dest="log", metavar="FILE", required=True, help="the log; - for standard input"
    )
    add_flags(
        parser, {"--logged": "the job ran with TORCH_LOGS=recompiles: a log without a line of it is healthy"}
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.base.pasted import pasted
    from runner.kit.pasted_input import read_pasted
    from runner.kit.recompile_lines import LoggedCause, logged_causes, logged_compiles

    def sentence(cause: LoggedCause) -> str:
        first, place = cause.first, Path(cause.first.place).name
        where = f"{first.frame} ({place})" if first.frame else place or "an unknown function"
        what = {"recompile": "recompiled", "limit": "reached the limit", "graph break": "breaks the graph"}
        reason = first.reason or "the log has no reason"
        records = f"{counted(cause.count, 'record')} of {counted(cause.processes, 'process', 'processes')}"
        return f"{where} {what[first.kind]} ({records}): {reason}"

    records = logged_compiles(pasted(read_pasted(arguments.log, "its last part", _LARGEST_TEXT)))
    if all(one.kind == "graph break" for one in records) and not arguments.logged:
        of_breaks = f", only {counted(len(records), 'graph break')}" if records else ""
        raise RunbookError(
            f"unknown: the log has no line about recompiles{of_breaks}; run the job with "
            "TORCH_LOGS=recompiles,graph_breaks, or add --logged if it did"
        )
    causes = logged_causes(records)
    for one in causes[:_SHOWN]:
        say(sentence(one))
    limits = [one for one in causes if one.first.kind == "limit"]
    again = [one for one in causes if one.first.kind == "recompile"]
    often = [one for one in again if one.most >= REPEATED]
    # Ranks that each recompile once look like one that does so eight times.
    found = limits + [one for one in often if one.first.process]
    if often and not found:
        raise RunbookError(
            f"unknown: {sentence(often[0])}; its lines lack the process id that torch begins them with"
        )
    return Findings(
        measurements=[
            single("recompiles_logged", sum(one.count for one in again), source="captured"),
            single("recompiles_of_one_cause", max((one.most for one in again), default=0), source="captured"),
            single("frames_given_up", len({one.first.cause[:3] for one in limits}), source="captured"),
            single("graph_breaks", sum(one.first.kind == "graph break" for one in causes), source="captured"),
        ],
        status="symptom" if found else "ok",
        reason=sentence(found[0]) if found else None,
        requested={"logged": arguments.logged},
        effective={"source": "captured", "repeated": REPEATED},
        details={"causes": [sentence(one) for one in causes[:_SHOWN]]},
    )


PROBE = Probe(
    "recompile_log",
    method_version=1,
    summary="Recompiles, limits and graph breaks in the log of a job, by function and reason",
    metrics=(
        Metric(
            "recompiles_logged",
            "1",
            "lower",
            "Recompiles in the log of a job, of all its processes.",
            kind="count",
            label="Recompiles in the log",
        ),
        Metric(
            "recompiles_of_one_cause",
            "1",
            "lower",
            "The most recompiles in the log of one function, for one reason, in one process.",
            kind="count",
            label="Recompiles of one cause",
        ),
        FRAMES_GIVEN_UP,
        GRAPH_BREAKS,
    ),
    labels=("source",),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
