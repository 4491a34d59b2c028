"""Records as series of numbers over time: the one reading of them for trends, pages and pruning. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any

from runner.entry.model import Phase, Runbook, Scalar
from runner.history.conditions import RunConditions, conditions_of
from runner.history.endings import by_any_id, scope_of
from runner.record.headline import key_measurement
from runner.record.model import Record
from runner.record.simulated import was_simulated


@dataclass(frozen=True, slots=True)
class Point:
    """The number of one run, in the unit of its series, and the conditions of the run.

    Attributes:
        low, high: the smallest and the largest sample; the value itself if there is one reading.
    """

    run_id: str
    when: datetime
    value: float
    low: float
    high: float
    conditions: RunConditions

    @property
    def node(self) -> str:
        """The node that ran it."""
        return self.conditions.node


@dataclass(frozen=True, slots=True)
class Series:
    """The key number of one step, measured in the same way by every run.

    Attributes:
        runbook: the current id of the entry.
        phase, digest: of the step.
        scope: the options of the runs as JSON, without the allowances, which are conditions of a run.
        fallback: the step did other work than requested (eager instead of compiled).
        points: the oldest first; at least one.
    """

    machine_class: str
    runbook: str
    step: str
    phase: Phase
    digest: str
    scope: str
    fallback: bool
    metric: str
    labels: Mapping[str, Scalar]
    unit: str
    points: tuple[Point, ...]

    @property
    def kind(self) -> tuple[str, str, str]:
        """Metric, unit and labels: the values of two series of one kind are of the same quantity."""
        return self.metric, self.unit, repr(sorted(self.labels.items()))

    @property
    def newest(self) -> Point:
        """The newest point."""
        return self.points[-1]


def series_of(record: Record, entries: Mapping[str, Runbook]) -> Iterator[Series]:
    """The key number of every finished step, as series of one point; nothing of a simulated run or step.

    Args:
        record: a run.
        entries: by every id that they have or had (`runner.history.endings.by_any_id`); a run under a former id is one
            of the entry.
    """
    if was_simulated(record):
        return
    entry = entries.get(record.runbook.id)
    scope = scope_of(record.options).model_dump_json()
    conditions = conditions_of(record)
    for step in record.steps:
        number = key_measurement(step) if step.counts else None
        if number is not None:
            point = Point(
                run_id=record.run_id,
                when=record.started_at,
                value=number.value,
                low=min(number.samples, default=number.value),
                high=max(number.samples, default=number.value),
                conditions=conditions,
            )
            yield Series(
                machine_class=record.machine.machine_class,
                runbook=entry.id if entry else record.runbook.id,
                step=step.id,
                phase=step.phase,
                digest=step.digest,
                scope=scope,
                fallback=step.fallback_reason is not None,
                metric=number.name,
                labels=number.labels,
                unit=number.unit,
                points=(point,),
            )


def joined_series(parts: Iterable[Series]) -> tuple[Series, ...]:
    """Series in any order, joined where the numbers are comparable; by class, entry, step and way of measuring."""
    found: dict[tuple[Any, ...], list[Series]] = {}
    for one in parts:
        way = (one.digest, one.scope, one.phase, one.fallback, *one.kind)
        found.setdefault((one.machine_class, one.runbook, one.step, *way), []).append(one)
    return tuple(
        replace(alike[0], points=points_of(alike)) for _, alike in sorted(found.items(), key=itemgetter(0))
    )


def points_of(series: Iterable[Series]) -> tuple[Point, ...]:
    """All points of these series, the oldest first."""
    return tuple(sorted((point for one in series for point in one.points), key=attrgetter("when", "run_id")))


def read_series(records: Iterable[Record], runbooks: Sequence[Runbook] = ()) -> tuple[Series, ...]:
    """The series of these records.

    Args:
        records: in any order.
        runbooks: the entries by whose current ids runs are named; a run of any other entry keeps its id.
    """
    entries = by_any_id(runbooks)
    return joined_series(one for record in records for one in series_of(record, entries))
