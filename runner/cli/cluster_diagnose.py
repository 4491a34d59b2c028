"""`runbook diagnose --on slurm`: the same diagnosis on many nodes, the most urgent node first."""

import argparse
from collections.abc import Sequence

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.base.plain import json_text, one_line
from runner.cli.cluster import console_of, launch, order_of
from runner.entry.read import read_all
from runner.fleet.campaign import Job
from runner.fleet.gathering import NodeDiagnosis, gather_diagnoses
from runner.fleet.submit import Order
from runner.record.redaction.redact import host_secrets, redact_json, telling

_FOUND, _UNKNOWN = 1, 3
_Row = tuple[Job, NodeDiagnosis | None, str | None]


def diagnose_on_slurm(arguments: argparse.Namespace) -> int:
    """Diagnose every node with a small job that shares the node with running jobs; the exit status is the worst one."""
    order = order_of(arguments, read_all(arguments.runbooks))
    looking = Order(
        **{
            **vars(order),
            "command": "diagnose",
            "arguments": ("--deadline", f"{arguments.deadline:g}"),
            "longest_s": arguments.deadline,
        }
    )
    console = console_of(to_stderr=arguments.format == "json")
    folder, campaign = launch(arguments, looking, console)
    rows = sorted(gather_diagnoses(campaign, folder), key=_urgency)
    if arguments.format == "json":
        names = (*host_secrets(), *telling(name for job, _, _ in rows for name in job.nodes))
        print(json_text([redact_json(_as_json(row), names) for row in rows]))
    else:
        _print(console, rows)
    return exit_status(rows)


def exit_status(rows: Sequence[_Row]) -> int:
    """1 if any node has a finding, else 3 if any node could not be diagnosed or is unknown, else 0."""
    statuses = {_UNKNOWN if found is None else found.exit_status for _, found, _ in rows}
    if _FOUND in statuses:
        return _FOUND
    return 0 if statuses == {0} else _UNKNOWN


def _urgency(row: _Row) -> tuple[int, str]:
    job, found, _ = row
    order = [_FOUND, _UNKNOWN, 0]
    status = _UNKNOWN if found is None else found.exit_status
    return (order.index(status) if status in order else 1), job.nodes[0]


def _as_json(row: _Row) -> dict[str, JsonValue]:
    job, found, reason = row
    entries: list[JsonValue] = [*found.entries] if found else []
    status = found.exit_status if found else _UNKNOWN
    return {"node_alias": job.key, "exit_status": status, "reason": reason, "entries": entries}


def _print(console: Console, rows: Sequence[_Row]) -> None:
    table = Table(title="Nodes, the most urgent first")
    for heading in ("node", "entry", "severity", "finding"):
        table.add_column(heading, overflow="fold")
    clear = 0
    for job, found, reason in rows:
        if found is None:
            table.add_row(escape(job.nodes[0]), "", "", f"[red]{escape(one_line(reason or ''))}[/red]")
            continue
        told = [entry for entry in found.entries if entry.get("finding")]
        clear += not told and not found.exit_status
        for entry in told:
            words = [one_line(str(entry.get(name) or "")) for name in ("entry", "severity", "finding")]
            table.add_row(escape(job.nodes[0]), *map(escape, words))
        if found.exit_status == _UNKNOWN and not told:
            table.add_row(escape(job.nodes[0]), "", "", "unknown: not every check could run")
    console.print(table)
    console.print(
        f"{clear} of {len(rows)} nodes: no findings in the checks that ran; read-only, no device was loaded"
    )
