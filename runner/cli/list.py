"""`runbook list`: the entries, and when each was last measured on this class of machine."""

import argparse
import json
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from runner.entry.read import read_all
from runner.evidence.store import Store
from runner.hardware.machine import look


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Print the entries in the order of their numbers."""
    runbooks = read_all(arguments.runbooks)
    machine_class = look().machine_class
    latest: dict[str, datetime] = {}
    for record in Store(arguments.data).records(machine_class=machine_class):
        latest[record.runbook.id] = max(record.started_at, latest.get(record.runbook.id, record.started_at))
    if arguments.json:
        entries = [
            {
                **runbook.head.model_dump(mode="json", include={"id", "number", "title", "severity", "tags"}),
                "steps": [step.id for step in runbook.steps],
                "last_measured": _instant(latest.get(runbook.id)),
                "machine_class": machine_class,
            }
            for runbook in runbooks
        ]
        print(json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    table = Table()
    for heading in ("no.", "id", "title", "severity", f"last measured on {machine_class}"):
        table.add_column(heading)
    for runbook in runbooks:
        head = runbook.head
        measured = _instant(latest.get(head.id)) or "unmeasured"
        table.add_row(str(head.number), head.id, head.title, head.severity.value, measured)
    Console().print(table)
    return 0


def _instant(value: datetime | None) -> str | None:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else None
