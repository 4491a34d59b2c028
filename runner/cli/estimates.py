"""Expected durations of the steps of plans, from the local records."""

import argparse
from collections.abc import Mapping, Sequence

from runner.entry.plan import Plan
from runner.hardware.machine import Machine
from runner.record.durations import Expected, expected_durations, newest_records


def expected_times(
    arguments: argparse.Namespace, plans: Sequence[Plan], machine: Machine
) -> tuple[Mapping[str, Expected], ...]:
    """Expected durations per plan, by step id; from the data folder and the records published with the entries."""
    folders = (arguments.data, *(folder.resolve().parent / "site_data" for folder in arguments.runbooks))
    names = {name for plan in plans for name in (plan.runbook.id, *plan.runbook.head.formerly)}
    records = list(newest_records(folders, names))
    return tuple(expected_durations(plan.runbook, plan.preset, machine, records) for plan in plans)
