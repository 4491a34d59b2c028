"""Numbers over time: detects changes with a rank test, and lists other changes at the same time. Pure.

A number is compared only with earlier ones of its series: same class, entry, step digest, options, metric and labels.
The newest `RECENT` runs are compared with up to `WINDOW` runs before them by an exact rank test. A single run is never
compared with the one before it, and at least `FEWEST` earlier runs are needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from runner.base.stats import Spread, rank_shift, ratio, spread
from runner.entry.model import Phase, Scalar
from runner.hardware.machine import Machine
from runner.record.headline import key_measurement
from runner.record.model import Measurement, Record, StepResult
from runner.vocabulary import metric_of

RECENT = 3
WINDOW = 20
# The minimum for which the test can reach its level: (9+3 choose 3) = 220 arrangements, two of them most extreme.
FEWEST = 9
LEVEL = 0.01
# Significant changes smaller than this share are not reported.
SMALLEST = 0.02
VERSIONS = ("driver", "torch", "cuda", "nccl", "python", "kernel", "os", "cpu")


@dataclass(frozen=True)
class Point:
    """The number of one run: its value in the unit of the series, and the conditions of the run."""

    run_id: str
    when: datetime
    value: float
    node: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """Comparable numbers, oldest first. `options` is the run's options as JSON."""

    machine_class: str
    runbook: str
    step: str
    digest: str
    options: str
    metric: str
    labels: Mapping[str, Scalar]
    unit: str
    points: tuple[Point, ...]

    @property
    def better(self) -> Literal["higher", "lower"] | None:
        """Which direction is good; None if neither is."""
        metric = metric_of(self.metric)
        return metric.better if metric else None


@dataclass(frozen=True)
class Change:
    """A change: the newest runs of a series differ from the window before them.

    Attributes:
        before, after: spread of the window and of the newest runs.
        p_value: probability of a difference at least as large without a change.
        causes: other recorded changes in the newest runs, most likely first; empty if there are none.
    """

    series: Series
    before: Spread
    after: Spread
    p_value: float
    causes: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """Median after ÷ before; None if a ratio would be meaningless."""
        return ratio(self.after.median, self.before.median)

    @property
    def direction(self) -> Literal["better", "worse", "different"]:
        """Whether the change is good or bad for the metric."""
        if self.series.better is None:
            return "different"
        rose = self.after.median > self.before.median
        return "better" if rose == (self.series.better == "higher") else "worse"


@dataclass(frozen=True)
class Trend:
    """All changes, the number of tested series, and the number of series with too few runs."""

    changes: tuple[Change, ...]
    tested: int
    too_short: int

    @property
    def false_alarms(self) -> float:
        """The expected number of false changes among the tested series (an upper limit)."""
        return self.tested * LEVEL


def versions_of(machine: Machine) -> dict[str, str]:
    """The versions that a number depends on; `none` for a missing component."""
    return {name: getattr(machine, name) or "none" for name in VERSIONS}


def all_series(records: Iterable[Record]) -> tuple[Series, ...]:
    """The key metric of each step over time, without injected faults, fallbacks and simulations."""
    found: dict[tuple[str, str, str, str, str, str], tuple[Measurement, list[Point]]] = {}
    for record in sorted(records, key=lambda record: record.moment):
        if record.simulated or record.machine.simulated:
            continue
        options = record.options.model_dump_json()
        versions = versions_of(record.machine)
        for step in record.steps:
            number = key_measurement(step) if _counts(step) else None
            if number is None:
                continue
            what = repr((number.name, number.unit, sorted(number.labels.items())))
            place = (record.machine.machine_class, record.runbook.id, step.id, step.digest, options, what)
            point = Point(record.run_id, record.started_at, number.value, record.node_alias, versions)
            found.setdefault(place, (number, []))[1].append(point)
    return tuple(
        Series(*place[:-1], number.name, number.labels, number.unit, tuple(points))
        for place, (number, points) in sorted(found.items(), key=lambda item: item[0])
    )


def _counts(step: StepResult) -> bool:
    return step.status.finished and step.phase is not Phase.REPRODUCE and step.fallback_reason is None


def change(series: Series) -> Change | None:
    """The change of the newest runs of a series relative to the window before them, or None."""
    window, recent = _halves(series)
    if len(window) < FEWEST:
        return None
    earlier, newest = [point.value for point in window], [point.value for point in recent]
    p_value = rank_shift(earlier, newest)
    before, after = spread(earlier), spread(newest)
    if p_value > LEVEL or abs(after.median - before.median) <= SMALLEST * abs(before.median):
        return None
    return Change(series, before, after, p_value, causes(window, recent))


def trend(records: Iterable[Record]) -> Trend:
    """Test every current series once, at its newest runs."""
    series = current(all_series(records))
    tested = [one for one in series if len(_halves(one)[0]) >= FEWEST]
    changes = [found for one in tested if (found := change(one))]
    return Trend(tuple(changes), len(tested), len(series) - len(tested))


def current(series: Iterable[Series]) -> tuple[Series, ...]:
    """The series with each step's newest digest; numbers of an earlier version of a step are history."""
    series = tuple(series)
    newest: dict[tuple[str, ...], tuple[datetime, str]] = {}
    for one in series:
        last = (one.points[-1].when, one.digest)
        newest[_place(one)] = max(last, newest.get(_place(one), last))
    return tuple(one for one in series if one.digest == newest[_place(one)][1])


def _place(series: Series) -> tuple[str, ...]:
    return series.machine_class, series.runbook, series.step, series.options


def causes(window: Sequence[Point], recent: Sequence[Point]) -> tuple[str, ...]:
    """Conditions that every recent run has and no earlier run had: `driver 570.1 → 580.95`; a new node comes last."""
    found = []
    for name in VERSIONS:
        now = {point.versions.get(name, "none") for point in recent}
        had = {point.versions.get(name, "none") for point in window}
        if not now & had:
            last = window[-1].versions.get(name, "none")
            found.append(f"{name} {last} → {recent[-1].versions.get(name, 'none')}")
    nodes = {point.node for point in recent}
    if not nodes & {point.node for point in window}:
        found.append(f"another node ({', '.join(sorted(nodes))})")
    return tuple(found)


def _halves(series: Series) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    return series.points[:-RECENT][-WINDOW:], series.points[-RECENT:]
