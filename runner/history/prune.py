"""Finds the records that pages and trends still need. Pure: the caller deletes the others.

Needed are: the newest result of every step and preset, the newest run of every entry and scope, on every class; the
runs that the trend of a step's current digest uses; both runs of every changed verdict; and the first run of every
entry on a class.
"""

from collections.abc import Sequence

from runner.entry.model import Runbook
from runner.history.endings import endings, scope_of
from runner.history.series import read_series
from runner.history.trend import RECENT, WINDOW, current
from runner.history.verdict_changes import verdict_changes
from runner.record.model import Record


def needed(runbooks: Sequence[Runbook], records: Sequence[Record]) -> frozenset[str]:
    """The run ids of the records to keep. A record that the gate would refuse is judged like any other."""
    keep = set(_newest(records).values())
    for series in current(read_series(records, runbooks)):
        keep |= {point.run_id for point in series.points[-(WINDOW + RECENT) :]}
    for change in verdict_changes(endings(runbooks, records)):
        keep |= {run.run_id for run in (change.earlier, change.later) if run is not None}
    return frozenset(keep)


def _newest(records: Sequence[Record]) -> dict[tuple[object, ...], str]:
    """The newest runs: of each node those with the newest result of a step and with the newest outcome of an entry.

    Pages show the results, by class, entry, step and preset. The next run of an entry is compared with the newest one
    of its scope that has an outcome.
    """
    found: dict[tuple[object, ...], str] = {}
    for record in sorted(records, key=lambda record: record.moment):
        where = (record.machine.machine_class, record.runbook.id, record.node_alias)
        for step in record.steps:
            if step.counts:
                found[*where, step.id, record.options.preset] = record.run_id
        if record.outcome is not None:
            found[*where, scope_of(record.options)] = record.run_id
    return found
