"""What records prove over and above one step: the fix against its fault, and a number over time. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from runner.catalogue import METRICS
from runner.entry.digest import current_digest
from runner.entry.model import Expectation, Phase, Runbook
from runner.evidence.headline import key_measurement
from runner.evidence.measured import fits_class, fitting
from runner.evidence.record import Measurement, Record, StepResult, StepStatus
from runner.pages.evidence import Evidence, Point
from runner.pages.numbers import Number, number, show_interval, show_labels
from runner.stats import ratio, ratio_interval
from runner.units import format_value, to_stored

MOST_PAIRS = 8
MOST_POINTS = 60


@dataclass(frozen=True)
class Pair:
    """One measurement before and after the fix, in one run: so on one node, with one set of versions.

    Attributes:
        ratio: after ÷ before with its interval, in words; empty where there is none.
        good: whether it went in the good direction; None where it stayed.
    """

    machine_class: str
    record: Record
    name: str
    labels: str
    before_step: str
    after_step: str
    before: Number
    after: Number
    ratio: str
    good: bool | None


def before_and_after(runbook: Runbook, evidence: Evidence) -> tuple[Pair, ...]:
    """What Reproduce (or a Diagnose that found the symptom) and Verify both measured, in each class's run."""
    found: list[Pair] = []
    for machine_class in evidence.classes:
        run = evidence.run(machine_class, runbook.id)
        if run is not None:
            found += sorted(_pairs(machine_class, run), key=lambda pair: pair.good is None)[:MOST_PAIRS]
    return tuple(found)


def _pairs(machine_class: str, run: Record) -> list[Pair]:
    ran = [step for step in run.steps if step.status.finished]
    faulty = [step for step in ran if step.phase is Phase.REPRODUCE]
    faulty += [step for step in ran if step.phase is Phase.DIAGNOSE and step.status is StepStatus.SYMPTOM]
    pairs: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    for after_step in (step for step in ran if step.phase is Phase.VERIFY):
        for after in _telling(after_step):
            key = (after.name, str(sorted(after.labels.items())))
            for before_step in faulty:
                same = [
                    one
                    for one in before_step.measurements
                    if (one.name, one.labels, one.unit) == (after.name, after.labels, after.unit)
                ]
                if len(same) == 1 and key not in seen:
                    seen.add(key)
                    pairs.append(_pair(machine_class, run, before_step, same[0], after_step, after))
    return pairs


def _telling(step: StepResult) -> list[Measurement]:
    """The step's measurements that have a good direction, its key one first."""
    key = key_measurement(step)
    telling = [one for one in step.measurements if one.name in METRICS and METRICS[one.name].better]
    return sorted(telling, key=lambda one: key is None or one.name != key.name)


def _pair(
    machine_class: str,
    run: Record,
    before_step: StepResult,
    before: Measurement,
    after_step: StepResult,
    after: Measurement,
) -> Pair:
    shown = ""
    times = ratio(after.value, before.value)
    if times and before.value != after.value:
        medians = before.statistic == after.statistic == "median"
        interval = ratio_interval(after.samples, before.samples) if medians else None
        sure = f" ({show_interval(interval, '1')})" if interval else ""
        shown = f"× {format_value(times, '1')}{sure}"
    higher = METRICS[after.name].better == "higher"
    return Pair(
        machine_class=machine_class,
        record=run,
        name=after.name,
        labels=show_labels(after.labels),
        before_step=before_step.id,
        after_step=after_step.id,
        before=number(before),
        after=number(after),
        ratio=shown,
        good=None if before.value == after.value else (after.value > before.value) == higher,
    )


@dataclass(frozen=True)
class Band:
    """What is expected of a number, in its stored unit; None where that side is open."""

    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Trend:
    """A step's key measurement over time on one class, all taken the same way.

    Attributes:
        points: oldest first, the newest `MOST_POINTS`.
        older: how many of before are not shown.
        otherwise: how many were taken another way (the step has changed since) and are left out.
        changed: by place among the points, which versions are not those of the point before.
        stale: the step has changed since even the newest.
    """

    machine_class: str
    step: str
    name: str
    labels: str
    unit: str
    points: tuple[Point, ...]
    older: int
    otherwise: int
    changed: dict[int, str]
    band: Band | None
    stale: bool

    @property
    def first(self) -> datetime:
        """When the oldest point was taken."""
        return self.points[0].when

    @property
    def last(self) -> datetime:
        """When the newest point was taken."""
        return self.points[-1].when

    def show(self, value: float) -> str:
        """A value of the trend for a reader."""
        return format_value(value, self.unit)

    @property
    def words(self) -> str:
        """The plot in words, for who cannot see it."""
        least, most = (f(point.value for point in self.points) for f in (min, max))
        what = f"{self.name}{f' ({self.labels})' if self.labels else ''} of step {self.step}"
        said = [
            f"{what} on {self.machine_class}",
            f"{len(self.points)} runs from {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}",
            f"between {format_value(least, self.unit)} and {format_value(most, self.unit)}",
            f"the newest {format_value(self.points[-1].value, self.unit)}",
        ]
        said += [f"expected {self.band.text}"] if self.band else []
        said += [f"{self.points[place].when:%Y-%m-%d} {text}" for place, text in self.changed.items()]
        return "; ".join(said)


def trends(runbook: Runbook, evidence: Evidence) -> tuple[Trend, ...]:
    """The trend of the number that speaks for the entry, a class each; a class without a record has none."""
    return tuple(trend for name in evidence.classes if (trend := _trend(runbook, evidence, name)) is not None)


def _trend(runbook: Runbook, evidence: Evidence, machine_class: str) -> Trend | None:
    verify = [step for step in runbook.steps if step.phase is Phase.VERIFY]
    headline = [step for step in runbook.steps if step.id == runbook.head.headline]
    for step in (*headline, *reversed(verify), *reversed(runbook.steps)):
        points = evidence.points.get((machine_class, runbook.id, step.id), ())
        if points:
            break
    else:
        return None
    newest = points[-1]
    kind = (newest.measurement, newest.labels, newest.unit)
    alike = [one for one in points if (one.measurement, one.labels, one.unit) == kind]
    same = [one for one in alike if one.digest == newest.digest]
    shown = same[-MOST_POINTS:]
    return Trend(
        machine_class=machine_class,
        step=step.id,
        name=newest.measurement,
        labels=show_labels(dict(newest.labels)),
        unit=newest.unit,
        points=tuple(shown),
        older=len(same) - len(shown),
        otherwise=len(alike) - len(same),
        changed=_version_changes(shown),
        band=_band(runbook, machine_class, step.id, newest),
        stale=newest.digest != current_digest(runbook, step),
    )


def _version_changes(points: Sequence[Point]) -> dict[int, str]:
    changed: dict[int, str] = {}
    for place, (before, after) in enumerate(pairwise(points), start=1):
        was, is_now = dict(before.versions), dict(after.versions)
        names = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name)]
        if names:
            changed[place] = ", ".join(
                f"{name} {was.get(name, 'none')} → {is_now.get(name, 'none')}" for name in names
            )
    return changed


def _band(runbook: Runbook, machine_class: str, step: str, point: Point) -> Band | None:
    """The bounds that decide this number on this class, narrowed to one band."""
    low: float | None = None
    high: float | None = None
    texts = []
    for bound in runbook.head.expectations:
        if not _concerns(bound, machine_class, step, point):
            continue
        factor = to_stored(1.0, bound.unit)[0] if bound.unit else 1.0
        if bound.min is not None:
            low = max(bound.min * factor, low if low is not None else bound.min * factor)
            texts.append(f"at least {format_value(bound.min * factor, point.unit)}")
        if bound.max is not None:
            high = min(bound.max * factor, high if high is not None else bound.max * factor)
            texts.append(f"at most {format_value(bound.max * factor, point.unit)}")
    return Band(low, high, " and ".join(dict.fromkeys(texts))) if texts else None


def _concerns(bound: Expectation, machine_class: str, step: str, point: Point) -> bool:
    measured = Measurement(
        name=point.measurement,
        labels=dict(point.labels),
        value=point.value,
        unit=point.unit,
        statistic="single",
    )
    return (
        bound.metric == f"{step}.{point.measurement}"
        and bound.over is None
        and bound.evidence.decides
        and fits_class(bound.on, machine_class)
        and bool(fitting([measured], point.measurement, bound.at))
    )
