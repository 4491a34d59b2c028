"""`runbook list`: the entries, when each was last measured on this class of machine, and what it came to."""

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from runner.cli.console import console_on
from runner.entry.read import read_all
from runner.evidence.endings import by_any_id, scope_words
from runner.evidence.standing import Standing
from runner.evidence.store import Store
from runner.hardware.machine import look
from runner.pages.evidence import gather
from runner.plain import json_text, one_line


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Print the entries in the order of their numbers."""
    runbooks = read_all(arguments.runbooks)
    machine_class = look().machine_class
    records = list(Store(arguments.data).records(machine_class=machine_class))
    entries = by_any_id(runbooks)
    latest: dict[str, datetime] = {}
    for record in records:
        if runbook := entries.get(record.runbook.id):
            latest[runbook.id] = max(record.started_at, latest.get(runbook.id, record.started_at))
    evidence = gather(records, runbooks)
    standings = {runbook: stands for (_, runbook), stands in evidence.standings.items()}
    if arguments.json:
        document = [
            {
                **runbook.head.model_dump(mode="json", include={"id", "number", "title", "severity", "tags"}),
                "steps": [step.id for step in runbook.steps],
                "last_measured": _instant(latest.get(runbook.id)),
                **_outcome(standings.get(runbook.id)),
                "machine_class": machine_class,
            }
            for runbook in runbooks
        ]
        print(json_text(document, sort_keys=True))
        return 0
    table = Table()
    for heading in ("no.", "id", "title", "severity", f"last measured on {machine_class}", "outcome"):
        table.add_column(heading)
    for runbook in runbooks:
        head = runbook.head
        measured = _instant(latest.get(head.id)) or "unmeasured"
        stands = standings.get(head.id)
        outcome = stands.judged.outcome.value if stands else ""
        table.add_row(str(head.number), head.id, escape(head.title), head.severity.value, measured, outcome)
    console = console_on(sys.stdout)
    console.print(table)
    for runbook in runbooks:
        for said in _remarks(standings.get(runbook.id)):
            console.print(escape(one_line(f"{runbook.id}: {said}")), highlight=False, soft_wrap=True)
    return 0


def _outcome(stands: Standing | None) -> dict[str, object]:
    """What the run that speaks for the entry came to, and newer ones of less that found the issue."""
    if stands is None:
        return {"outcome": None, "unproved": [], "narrower": []}
    return {
        "outcome": stands.judged.outcome.value,
        "unproved": list(stands.judged.unproved),
        "narrower": [found.outcome.value for _, found in stands.beside],
    }


def _remarks(stands: Standing | None) -> Iterator[str]:
    if stands is None:
        return
    if stands.judged.why:
        yield f"{stands.judged.outcome.value}: {stands.judged.why}"
    for record, found in stands.beside:
        yield f"{found.outcome.value} in a newer, narrower run ({scope_words(record.options)})"


def _instant(value: datetime | None) -> str | None:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else None
