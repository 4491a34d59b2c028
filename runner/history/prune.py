"""Finds the records that pages and trends still need. Pure: the caller deletes the others.

Needed are: the newest result of every step and preset, the newest run of every entry and options, on every class; the
runs that the trend of a step's current digest uses; both runs of every changed verdict; and the first run of every
entry on a class.
"""

from collections.abc import Sequence

from runner.entry.model import Runbook
from runner.history.endings import endings
from runner.history.trend import RECENT, WINDOW, all_series, current
from runner.history.verdict_changes import turns
from runner.record.model import Record


def needed(runbooks: Sequence[Runbook], records: Sequence[Record]) -> frozenset[str]:
    """The run ids of the records to keep. A record that the gate would refuse is judged like any other."""
    keep = {*_newest_results(records).values(), *_newest_ended(records).values()}
    for series in current(all_series(records)):
        keep |= {point.run_id for point in series.points[-(WINDOW + RECENT) :]}
    for turn in turns(endings(runbooks, records)):
        keep |= {run.run_id for run in (turn.earlier, turn.later) if run is not None}
    return frozenset(keep)


def _newest_results(records: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """The run of each node's newest finished result, by class, entry, step and preset, which pages show."""
    found: dict[tuple[str, ...], str] = {}
    for record in sorted(records, key=lambda record: record.moment):
        for step in record.steps:
            if step.status.finished:
                where = (record.machine.machine_class, record.runbook.id, record.node_alias)
                found[*where, step.id, record.options.preset] = record.run_id
    return found


def _newest_ended(records: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """The newest run with an outcome, by class, entry, options and node, with which the next run is compared."""
    found: dict[tuple[str, ...], str] = {}
    for record in sorted(records, key=lambda record: record.moment):
        if record.outcome is not None:
            options = record.options.model_dump_json()
            key = (record.machine.machine_class, record.runbook.id, options, record.node_alias)
            found[key] = record.run_id
    return found
