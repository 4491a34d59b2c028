"""How long the steps of plans are expected to take, by the records that are here."""

import argparse
from collections.abc import Mapping, Sequence

from runner.evidence.durations import Expected, expected_durations, newest_records
from runner.hardware.machine import Machine
from runner.plan import Plan


def expected_times(
    arguments: argparse.Namespace, plans: Sequence[Plan], machine: Machine
) -> tuple[Mapping[str, Expected], ...]:
    """Of each plan, by step id; from the data folder given and from the records published beside the entries."""
    folders = (arguments.data, arguments.runbooks.resolve().parent / "site_data")
    names = {name for plan in plans for name in (plan.runbook.id, *plan.runbook.head.formerly)}
    records = list(newest_records(folders, names))
    return tuple(expected_durations(plan.runbook, plan.preset, machine, records) for plan in plans)
