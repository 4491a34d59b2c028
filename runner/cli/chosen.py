"""The entries that a command names: ids, numbers, beginnings of ids, or `all`."""

from collections.abc import Sequence
from pathlib import Path

from runner.entry.attributes import ALL
from runner.entry.model import Condition, Runbook
from runner.entry.read import find, read_all
from runner.hardware.machine import Machine
from runner.record.evaluation import fits

HELP = f"an entry's id, the beginning of one, or its number; {ALL!r} for every entry"


def chosen_entries(
    folders: Sequence[Path], names: Sequence[str], machine: Machine | None
) -> tuple[Runbook, ...]:
    """The named entries in the given order, each once; `all` stands for those that are not named.

    `all` starts with the entries in which the most is decided by the GPUs of this machine (None: the runs are
    elsewhere), so that a run that is cut off has measured first what cannot be measured elsewhere.

    Raises:
        InputError: a name belongs to no entry, or to several.
        RunbookFaultsError: an entry has faults.
    """
    named = {name: find(folders, name) for name in names if name != ALL}
    others = {one.id: one for one in read_all(folders)} if ALL in names else {}
    for runbook in named.values():
        others.pop(runbook.id, None)
    rest = sorted(others.values(), key=lambda one: (-decided_by_gpus(one, machine), one.head.number))
    found = [one for name in names for one in (rest if name == ALL else [named[name]])]
    return tuple({one.id: one for one in found}.values())


def decided_by_gpus(runbook: Runbook, machine: Machine | None) -> int:
    """How many bounds and claims of an entry can be judged here but on no host without GPUs; 0 without GPUs."""
    if machine is None or not machine.gpus:
        return 0
    bounds = [(one,) for one in runbook.head.expectations]
    claims = [(one.confirmed_if, one.contradicted_if) for one in runbook.head.claims]
    return sum(any(_only_with_gpus(one, runbook, machine) for one in part if one) for part in bounds + claims)


def _only_with_gpus(condition: Condition, runbook: Runbook, machine: Machine) -> bool:
    steps = [
        runbook.step(metric.partition(".")[0]) for metric in (condition.metric, condition.over) if metric
    ]
    needed = max((step.gpus for step in steps if step), default=0)
    meant = condition.on is not None and condition.on.gpu.lower() != "none"
    return (meant or needed > 0) and fits(condition.on, machine) and needed <= len(machine.gpus)
