"""What turned: runs that ended otherwise than the one before on the same node. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.entry.model import Runbook
from runner.pages.evidence import Ending, Evidence

UNMEASURED = "unmeasured"
# Runs that started within this time before the newest one belong to the same refresh.
ONE_REFRESH = timedelta(days=1)


@dataclass(frozen=True)
class Change:
    """A verdict that turned on one class; `before` is unmeasured for the first run of a class."""

    when: datetime
    machine_class: str
    runbook: Runbook
    before: str
    after: str
    run_id: str
    node: str


@dataclass(frozen=True)
class Refresh:
    """The newest round of runs: when its last one started, how many there were, and what they changed."""

    when: datetime
    runs: int
    changes: tuple[Change, ...]


def verdict_changes(runbooks: Sequence[Runbook], evidence: Evidence) -> tuple[Change, ...]:
    """Every change, newest first. A further node of a class is none until its own verdict turns."""
    by_id = {runbook.id: runbook for runbook in runbooks}
    found = [
        change
        for (machine_class, runbook_id), endings in evidence.endings.items()
        if runbook_id in by_id
        for change in _turns(machine_class, by_id[runbook_id], endings)
    ]
    return tuple(sorted(found, key=lambda one: (one.when, one.runbook.id, one.run_id), reverse=True))


def _turns(machine_class: str, runbook: Runbook, endings: Sequence[Ending]) -> list[Change]:
    last: dict[str, str] = {}
    found = []
    for ending in endings:
        after = ending.outcome.value
        before = last.get(ending.node, after if last else UNMEASURED)
        last[ending.node] = after
        if before != after:
            found.append(
                Change(ending.when, machine_class, runbook, before, after, ending.run_id, ending.node)
            )
    return found


def last_refresh(
    runbooks: Sequence[Runbook], evidence: Evidence, changes: Sequence[Change]
) -> Refresh | None:
    """The newest round of runs, None where there is no run."""
    ids = {runbook.id for runbook in runbooks}
    moments = [one.when for (_, name), endings in evidence.endings.items() if name in ids for one in endings]
    if not moments:
        return None
    newest = max(moments)
    return Refresh(
        when=newest,
        runs=sum(moment > newest - ONE_REFRESH for moment in moments),
        changes=tuple(change for change in changes if change.when > newest - ONE_REFRESH),
    )
