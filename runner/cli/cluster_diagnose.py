"""`runbook diagnose --on slurm`: the same diagnosis on many nodes, the most urgent node first."""

import argparse
from collections.abc import Sequence

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from runner.base.plain import json_text, one_line
from runner.cli.cluster import launch, order_of
from runner.cli.console import console_of
from runner.cli.fleet_view import folded_table, print_settings
from runner.entry.read import read_all
from runner.fleet.gathering import NodeDiagnosis, gather_diagnoses
from runner.history.golden import ComparedSetting, compare_settings
from runner.node.findings import Action
from runner.record.redaction.redact import host_secrets, redact_json, telling

_FOUND, _UNKNOWN, _CLEAR = 1, 3, 0
_MOST_URGENT_FIRST = (_FOUND, _UNKNOWN, _CLEAR)


def diagnose_on_slurm(arguments: argparse.Namespace) -> int:
    """Diagnose every node with a small job that shares the node with running jobs; the exit status is the worst one.

    1 if any node has a finding, else 3 if any node could not be diagnosed or is unknown, else 0.
    """
    order = order_of(
        arguments,
        read_all(arguments.runbooks),
        ("--deadline", f"{arguments.deadline:g}"),
        longest_s=arguments.deadline,
        command="diagnose",
    )
    console = console_of(to_stderr=arguments.format == "json")
    folder, campaign = launch(arguments, order, console)
    rows = sorted(gather_diagnoses(campaign, folder), key=_urgency)
    compared = compare_settings(row.settings for row in rows if row.settings)
    if arguments.format == "json":
        names = (*host_secrets(), *telling(name for row in rows for name in row.job.nodes))
        print(json_text([redact_json(_as_json(row, compared), names) for row in rows]))
    else:
        _print(console, rows)
        print_settings(console, compared, {row.job.key: row.job.nodes[0] for row in rows})
    return rows[0].exit_status if rows else _UNKNOWN


def _urgency(row: NodeDiagnosis) -> tuple[int, int, str]:
    actions = [action for entry in row.entries if (action := entry.get("action")) in list(Action)]
    gravest = max((Action(action).rank for action in actions), default=-1)
    return _MOST_URGENT_FIRST.index(row.exit_status), -gravest, row.job.nodes[0]


def _as_json(row: NodeDiagnosis, compared: Sequence[ComparedSetting]) -> dict[str, JsonValue]:
    entries: list[JsonValue] = [dict(entry) for entry in row.entries]
    settings: dict[str, JsonValue] = dict(row.settings.settings) if row.settings else {}
    differs: dict[str, JsonValue] = {
        one.name: {"value": settings[one.name], "majority": one.majority.value}
        for one in compared
        if one.majority and row.job.key in one.differing
    }
    return {
        "node_alias": row.job.key,
        "exit_status": row.exit_status,
        "reason": row.reason,
        "settings": settings,
        "differs": differs,
        "entries": entries,
    }


def _print(console: Console, rows: Sequence[NodeDiagnosis]) -> None:
    table = folded_table("Nodes, the most urgent first", "node", "action", "entry", "finding")
    clear = 0
    for row in rows:
        node = escape(row.job.nodes[0])
        told = [entry for entry in row.entries if entry.get("finding")]
        clear += not told and not row.exit_status
        for entry in told:
            # A finding without an action is graded by its severity alone.
            action = entry.get("action") or entry.get("severity")
            words = [one_line(str(word or "")) for word in (action, entry.get("entry"), entry.get("finding"))]
            table.add_row(node, *map(escape, words))
        if row.reason is not None:
            table.add_row(node, "", "", f"[red]{escape(one_line(row.reason))}[/red]")
        elif row.exit_status == _UNKNOWN and not told:
            table.add_row(node, "", "", "unknown: not every check could run")
    console.print(table)
    console.print(
        f"{clear} of {len(rows)} nodes: no findings in the checks that ran; read-only, no device was loaded"
    )
