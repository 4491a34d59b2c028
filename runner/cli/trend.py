"""`runbook trend`: which numbers changed over the last runs, and which verdicts turned."""

import argparse
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime

from runner.entry.read import read_all
from runner.entry.words import counted
from runner.errors import InputError
from runner.evidence.endings import endings
from runner.evidence.store import Store
from runner.evidence.trend import FEWEST, LEVEL, RECENT, Change, Trend, trend
from runner.evidence.turns import Turn, turns
from runner.plain import json_text, one_line
from runner.units import format_value

SOMETHING = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--since", metavar="DATE", help="only verdicts that turned on or after this day (2026-11-01), UTC"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print changes, turns and first runs; 1 where there is a change or a turn, else 0.

    Raises:
        InputError: the date cannot be read.
    """
    since = _day(arguments.since)
    records = list(Store(arguments.data).records())
    found = trend(records)
    turned = [
        turn
        for turn in turns(endings(read_all(arguments.runbooks), records))
        if since is None or turn.later.when >= since
    ]
    if arguments.json:
        print(json_text(_document(found, turned)))
    else:
        print("\n".join(_lines(found, turned)))
    return SOMETHING if found.changes or any(turn.earlier for turn in turned) else 0


def _lines(found: Trend, turned: list[Turn]) -> Iterator[str]:
    for change in found.changes:
        yield one_line(change_line(change))
    for turn in turned:
        yield one_line(str(turn))
    again = [turn for turn in turned if turn.earlier]
    first = counted(len(turned) - len(again), "entry", "entries")
    yield (
        f"{counted(len(found.changes), 'change')} in {found.tested} series of {RECENT + FEWEST} runs or more, each "
        f"tested at {LEVEL:.0%} (so up to {found.false_alarms:.2g} by chance); {found.too_short} too short to be "
        f"tested; {counted(len(again), 'verdict')} turned, {first} measured for the first time"
    )


def change_line(change: Change) -> str:
    """One line: what, how much, against how many, and what else is new."""
    series = change.series
    labels = ", ".join(f"{name}={value}" for name, value in sorted(series.labels.items()))
    before, after = (
        format_value(value, series.unit) for value in (change.before.median, change.after.median)
    )
    ratio = "" if change.ratio is None else f" (×{change.ratio:.3g})"
    cause = f"likely cause: {', '.join(change.causes)}" if change.causes else "no version recorded changed"
    return (
        f"{series.machine_class} {series.runbook} {series.step}: {series.metric}{f' ({labels})' if labels else ''} "
        f"{change.direction}: {before} → {after}{ratio}, last {change.after.count} runs against {change.before.count} "
        f"before, p = {change.p_value:.2g}; {cause}"
    )


def _document(found: Trend, turned: list[Turn]) -> dict[str, object]:
    return {
        "changes": [
            {
                **{
                    name: getattr(one.series, name) for name in ("machine_class", "runbook", "step", "digest")
                },
                **{name: getattr(one.series, name) for name in ("metric", "labels", "unit")},
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
        raise InputError(f"--since {text!r} is no date; write it as 2026-11-01") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
