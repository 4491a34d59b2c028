"""All records, read once and kept as what pages need of them: newest results, outcomes and numbers over time. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.entry.model import Runbook
from runner.history.endings import (
    Ending,
    JudgedRun,
    RanStep,
    Standing,
    by_any_id,
    ending_of,
    home_preset,
    standing,
)
from runner.history.series import Series, joined_series, series_of
from runner.history.verdict_changes import VerdictChange, verdict_changes
from runner.record.model import Options, Record
from runner.record.outcomes import Judged
from runner.record.simulated import was_simulated

# The machines that this knowledge base is for: always shown, and unmeasured until a record exists.
HEADLINE_CLASSES = ("8xB200-180GB",)

# Runs that started within this time before the newest one belong to the same refresh.
ONE_REFRESH = timedelta(days=1)

_StepKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class SiteEvidence:
    """All records, looked up the ways that pages need.

    Attributes:
        finished: newest finished result of each node, the newest of all last, by (class, runbook, step, preset).
        standings: where each entry stands, by (class, runbook), from runs at the class's own preset.
        endings: how runs ended, oldest first.
        changes: changed verdicts, oldest first.
        series: key measurements over time, by (class, runbook, step), at the class's own preset.
        campaigns: the records of campaigns, judged.
        classes: every machine class that is shown, GPUs first.
        presets: the preset that is a class's own.
    """

    finished: Mapping[_StepKey, tuple[RanStep, ...]]
    standings: Mapping[tuple[str, str], Standing]
    endings: tuple[Ending, ...]
    changes: tuple[VerdictChange, ...]
    series: Mapping[tuple[str, str, str], tuple[Series, ...]]
    campaigns: tuple[tuple[Record, Judged | None], ...]
    classes: tuple[str, ...]
    presets: Mapping[str, str]

    def run(self, machine_class: str, runbook: str) -> Record | None:
        """The run that represents an entry on a class, or None."""
        found = self.standings.get((machine_class, runbook))
        return found.record if found else None

    def step(self, machine_class: str, runbook: str, step: str) -> RanStep | None:
        """The newest finished result of a step on a class, at the class's own preset."""
        nodes = self._nodes(machine_class, runbook, step)
        return nodes[-1] if nodes else None

    def nodes(self, machine_class: str, runbook: str, step: str) -> tuple[RanStep, ...]:
        """The newest result of each node that was taken in the same way as the newest of all, which is last."""
        nodes = self._nodes(machine_class, runbook, step)
        return tuple(found for found in nodes if found[1].digest == nodes[-1][1].digest)

    def _nodes(self, machine_class: str, runbook: str, step: str) -> tuple[RanStep, ...]:
        return self.finished.get((machine_class, runbook, step, self.presets.get(machine_class, "")), ())


def gather(records: Iterable[Record], runbooks: Sequence[Runbook] = ()) -> SiteEvidence:
    """Index records, reading each once. Simulated runs and steps are skipped: their numbers may not be shown.

    Args:
        records: in any order.
        runbooks: the entries by which runs are judged; of other entries only the numbers are kept.
    """
    entries = by_any_id(runbooks)
    finished: dict[_StepKey, dict[str, RanStep]] = defaultdict(dict)
    runs: dict[tuple[str, str], dict[Options, JudgedRun]] = defaultdict(dict)
    endings: list[Ending] = []
    numbers: list[Series] = []
    campaigns: list[tuple[Record, Judged | None]] = []
    presets: dict[str, str] = {}
    for record in records:
        if was_simulated(record):
            continue
        machine_class = record.machine.machine_class
        entry = entries.get(record.runbook.id)
        runbook = entry.id if entry else record.runbook.id
        preset = record.options.preset
        at_home = preset == presets.setdefault(machine_class, home_preset(record.machine))
        for result in record.steps:
            if result.counts:
                nodes = finished[machine_class, runbook, result.id, preset]
                if _is_newer(record, nodes.get(record.node_alias)):
                    nodes[record.node_alias] = (record, result)
        if at_home:
            numbers += series_of(record, entries)
        ending = ending_of(entry, record) if entry else None
        if record.campaign is not None and entry:
            campaigns.append((record, ending.judged if ending else None))
        if ending is not None:
            endings.append(ending)
            of_entry = runs[machine_class, runbook]
            if at_home and _is_newer(record, of_entry.get(ending.scope)):
                of_entry[ending.scope] = (record, ending.judged)
    series: dict[tuple[str, str, str], tuple[Series, ...]] = {}
    for one in joined_series(numbers):
        place = (one.machine_class, one.runbook, one.step)
        series[place] = (*series.get(place, ()), one)
    return SiteEvidence(
        finished={
            key: tuple(sorted(nodes.values(), key=lambda one: one[0].moment))
            for key, nodes in finished.items()
        },
        standings={
            place: found for place, of_entry in runs.items() if (found := standing(of_entry.values()))
        },
        endings=tuple(sorted(endings, key=lambda one: one.moment)),
        changes=verdict_changes(endings),
        series=series,
        campaigns=tuple(campaigns),
        classes=tuple(
            sorted({*presets, *HEADLINE_CLASSES}, key=lambda name: (name.startswith("cpu-"), name))
        ),
        presets=presets,
    )


def _is_newer(record: Record, known: tuple[Record, object] | None) -> bool:
    return known is None or known[0].moment <= record.moment


@dataclass(frozen=True)
class Refresh:
    """The newest round of runs: when its last one started, how many there were, and what they changed.

    Attributes:
        turned: changed verdicts, newest first; a first run is not a change.
        first: the first runs of an entry on a class, newest first.
    """

    when: datetime
    runs: int
    turned: tuple[VerdictChange, ...]
    first: tuple[VerdictChange, ...]


def last_refresh(evidence: SiteEvidence) -> Refresh | None:
    """The newest round of runs, or None."""
    newest = max((one.when for one in evidence.endings), default=None)
    if newest is None:
        return None
    since = newest - ONE_REFRESH
    changes = [change for change in reversed(evidence.changes) if change.later.when > since]
    return Refresh(
        when=newest,
        runs=sum(one.when > since for one in evidence.endings),
        turned=tuple(turn for turn in changes if turn.earlier is not None),
        first=tuple(turn for turn in changes if turn.earlier is None),
    )
