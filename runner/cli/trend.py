"""`runbook trend`: which numbers and which verdicts changed over the last runs."""

import argparse
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime

from runner.base.errors import InputError
from runner.base.plain import json_text, one_line
from runner.base.units import format_value
from runner.base.words import bracketed, counted, label_pairs
from runner.entry.read import read_all
from runner.history.endings import endings
from runner.history.trend import FEWEST, LEVEL, RECENT, TrendChange, TrendReport, trend
from runner.history.verdict_changes import VerdictChange, verdict_changes
from runner.record.store import Store
from runner.vocabulary import label_of

CHANGED = 1
_OF_SERIES = ("machine_class", "runbook", "step", "digest", "metric", "labels", "unit")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--since", metavar="DATE", help="only verdicts that changed on or after this day (2026-11-01), UTC"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print changed numbers, changed verdicts and first runs; 1 if a number or a verdict changed, else 0.

    Raises:
        InputError: the date is invalid.
    """
    since = _day(arguments.since)
    records = list(Store(arguments.data).records())
    runbooks = read_all(arguments.runbooks)
    found = trend(records, runbooks)
    turned = [
        turn
        for turn in verdict_changes(endings(runbooks, records))
        if since is None or turn.later.when >= since
    ]
    if arguments.json:
        print(json_text(_document(found, turned)))
    else:
        print("\n".join(_lines(found, turned)))
    return CHANGED if found.changes or any(turn.earlier for turn in turned) else 0


def _lines(found: TrendReport, turned: list[VerdictChange]) -> Iterator[str]:
    for change in found.changes:
        yield one_line(change_line(change))
    for turn in turned:
        yield one_line(str(turn))
    again = [turn for turn in turned if turn.earlier]
    first = counted(len(turned) - len(again), "entry", "entries")
    yield (
        f"{counted(len(again), 'verdict')} changed, {first} measured for the first time; "
        f"{counted(len(found.changes), 'number')} changed of {found.tested} tested (each at {LEVEL:.0%}: up to "
        f"{found.false_alarms:.2g} by chance), {found.too_short} with fewer than {RECENT + FEWEST} runs not tested"
    )


def change_line(change: TrendChange) -> str:
    """One line: the series, its change, the number of runs compared, and the likely cause."""
    series = change.series
    number = f"{label_of(series.metric)}{bracketed(label_pairs(series.labels))}"
    before, after = (
        format_value(value, series.unit) for value in (change.before.median, change.after.median)
    )
    ratio = "" if change.ratio is None else f" (×{change.ratio:.3g})"
    cause = f"likely cause: {', '.join(change.causes)}" if change.causes else "no recorded version changed"
    return (
        f"{series.machine_class} {series.runbook} {series.step}: {number} "
        f"{change.direction}: {before} → {after}{ratio}, last {change.after.count} runs "
        f"compared with {change.before.count} before, p = {change.p_value:.2g}; {cause}"
    )


def _document(found: TrendReport, turned: list[VerdictChange]) -> dict[str, object]:
    return {
        "changes": [
            {
                **{name: getattr(one.series, name) for name in _OF_SERIES},
                "before": dataclasses.asdict(one.before),
                "after": dataclasses.asdict(one.after),
                "direction": one.direction,
                "p_value": one.p_value,
                "causes": one.causes,
            }
            for one in found.changes
        ],
        "tested": found.tested,
        "too_short": found.too_short,
        "level": LEVEL,
        "turned": [
            {
                "machine_class": turn.later.machine_class,
                "runbook": turn.later.runbook.id,
                "options": turn.later.scope.model_dump(mode="json", exclude={"allow"}),
                "what": turn.what,
                "before": turn.before,
                "after": turn.after,
                "unproved": turn.later.judged.unproved,
                "earlier": turn.earlier.run_id if turn.earlier else None,
                "later": turn.later.run_id,
                "causes": turn.causes,
            }
            for turn in turned
        ],
    }


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--since {text!r} is not a date; write it as 2026-11-01") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
