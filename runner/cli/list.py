"""`runbook list`: the entries, and the last result of each on this class of machine."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.text import Text

from runner.base.plain import json_text, one_line
from runner.base.words import counted
from runner.cli.console import console_on
from runner.cli.rows import aligned
from runner.entry.model import Runbook
from runner.entry.read import read_all
from runner.hardware.machine import look_class
from runner.history.endings import Standing, by_any_id, outcome_words, scope_words
from runner.pages.evidence import gather
from runner.record.store import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Print the entries in the order of their numbers."""
    runbooks = read_all(arguments.runbooks)
    machine_class = look_class()
    records = list(Store(arguments.data).records(machine_class=machine_class))
    entries = by_any_id(runbooks)
    latest: dict[str, datetime] = {}
    for record in records:
        if runbook := entries.get(record.runbook.id):
            latest[runbook.id] = max(record.started_at, latest.get(runbook.id, record.started_at))
    evidence = gather(records, runbooks)
    standings = {runbook: standing for (_, runbook), standing in evidence.standings.items()}
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
    console = console_on(sys.stdout)
    results = {runbook.id: _result(standings.get(runbook.id), latest.get(runbook.id)) for runbook in runbooks}
    # In a pipe an entry is one line, for the programs that read lines.
    width = console.width if sys.stdout.isatty() else None
    print(f"{counted(len(runbooks), 'entry', 'entries')}; last results on {machine_class}")
    for line in _lines(runbooks, results, width):
        console.print(line, soft_wrap=True)
    for runbook in runbooks:
        for said in _remarks(standings.get(runbook.id)):
            console.print(Text(one_line(f"{runbook.id}: {said}")), soft_wrap=True)
    return 0


def _lines(runbooks: Sequence[Runbook], results: Mapping[str, str], width: int | None) -> Iterator[Text]:
    """Number, id, severity, last result and title of each entry. The id has to be typed, so it is never shortened."""
    longest = max(len(str(runbook.head.number)) for runbook in runbooks)
    rows = [
        (
            Text(f"{runbook.head.number:>{longest}}. ").append(runbook.id, style="bold"),
            Text(runbook.head.severity.value),
            Text(results[runbook.id]),
            Text(one_line(runbook.head.title)),
        )
        for runbook in runbooks
    ]
    return aligned(rows, width, longest + 2)


def _result(standing: Standing | None, latest: datetime | None) -> str:
    """`fix proved, 2026-11-26`; `unmeasured` without a record."""
    if latest is None:
        return "unmeasured"
    outcome = outcome_words(standing.judged.outcome, standing.record) if standing else "no outcome"
    return f"{one_line(outcome)}, {latest.astimezone(UTC):%Y-%m-%d}"


def _outcome(standing: Standing | None) -> dict[str, object]:
    """The outcome of the run that counts for the entry, and those of newer, narrower runs that found the issue."""
    if standing is None:
        return {"outcome": None, "unproved": [], "narrower": []}
    return {
        "outcome": standing.judged.outcome.value,
        "unproved": list(standing.judged.unproved),
        "narrower": [found.outcome.value for _, found in standing.beside],
    }


def _remarks(standing: Standing | None) -> Iterator[str]:
    if standing is None:
        return
    if standing.judged.why:
        yield f"{outcome_words(standing.judged.outcome, standing.record)}: {standing.judged.why}"
    for record, found in standing.beside:
        yield f"{outcome_words(found.outcome, record)} in a newer, narrower run ({scope_words(record.options)})"


def _instant(value: datetime | None) -> str | None:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else None
