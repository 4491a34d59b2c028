"""Numbers over time: which of them changed, by what test, and what else changed with them. Pure.

A number is compared with earlier ones of its own series only: same class, entry, step digest, options, metric and
labels. The newest `RECENT` runs are held against the up to `WINDOW` before them by an exact rank test; nothing is said
of one run against the one before it, nor with fewer than `FEWEST` earlier ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from runner.catalogue import metric_of
from runner.entry.model import Phase, Scalar
from runner.evidence.headline import key_measurement
from runner.evidence.record import Measurement, Record, StepResult
from runner.hardware.machine import Machine
from runner.stats import Spread, rank_shift, ratio, spread

RECENT = 3
WINDOW = 20
# The fewest for which the test can reach its level: (9+3 choose 3) = 220 ways, two of them the most extreme.
FEWEST = 9
LEVEL = 0.01
# A change that is sure but smaller than this share is not worth a reader's time.
SMALLEST = 0.02
VERSIONS = ("driver", "torch", "cuda", "nccl", "python", "kernel", "os", "cpu")


@dataclass(frozen=True)
class Point:
    """One run's number: its value in the series' unit, and what it was taken with."""

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
        """Which direction is good; None where neither is."""
        metric = metric_of(self.metric)
        return metric.better if metric else None


@dataclass(frozen=True)
class Change:
    """The newest runs of a series differ from the window before them.

    Attributes:
        before, after: spread of the window and of the newest runs.
        p_value: how often runs that are all alike would differ at least so much.
        causes: what else is new in the newest runs, likeliest first; empty where nothing recorded is.
    """

    series: Series
    before: Spread
    after: Spread
    p_value: float
    causes: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """Median after ÷ before; None where a ratio would say nothing."""
        return ratio(self.after.median, self.before.median)

    @property
    def direction(self) -> Literal["better", "worse", "different"]:
        """What the change means by the metric's own direction."""
        if self.series.better is None:
            return "different"
        rose = self.after.median > self.before.median
        return "better" if rose == (self.series.better == "higher") else "worse"


@dataclass(frozen=True)
class Trend:
    """Every change, and of how many series that were long enough; the others had too few runs."""

    changes: tuple[Change, ...]
    tested: int
    too_short: int

    @property
    def false_alarms(self) -> float:
        """How many of the tested series would show a change if nothing had: at most this many on average."""
        return self.tested * LEVEL


def versions_of(machine: Machine) -> dict[str, str]:
    """The versions that a number depends on; `none` where there is no such thing."""
    return {name: getattr(machine, name) or "none" for name in VERSIONS}


def all_series(records: Iterable[Record]) -> tuple[Series, ...]:
    """The number that speaks for each step, over time; injected faults, fallbacks and simulations left out."""
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
    """The change that the newest runs of a series show against the window before them, or None."""
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
    """Those of each step's newest digest: numbers of a step that has changed since are history."""
    series = tuple(series)
    newest: dict[tuple[str, ...], tuple[datetime, str]] = {}
    for one in series:
        last = (one.points[-1].when, one.digest)
        newest[_place(one)] = max(last, newest.get(_place(one), last))
    return tuple(one for one in series if one.digest == newest[_place(one)][1])


def _place(series: Series) -> tuple[str, ...]:
    return series.machine_class, series.runbook, series.step, series.options


def causes(window: Sequence[Point], recent: Sequence[Point]) -> tuple[str, ...]:
    """What every recent run has and no earlier one had: `driver 570.1 → 580.95`; a new node last."""
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
