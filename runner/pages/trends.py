"""A number over time, with what may explain a change of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from runner.base.units import format_value, scale_of, to_stored
from runner.entry.digest import current_digest
from runner.entry.model import Expectation, Phase, Runbook
from runner.pages.evidence import Evidence, Point
from runner.pages.numbers import show_labels, show_value
from runner.record.bounds_checked import fits_class, fitting
from runner.record.model import Measurement
from runner.vocabulary import label_of

MOST_POINTS = 60
# The axis begins at 0 unless the least value lies above this share of the greatest.
_CUT_ABOVE = 0.5


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
    def label(self) -> str:
        """The metric's name for a reader."""
        return label_of(self.name)

    @property
    def axis(self) -> tuple[float, float]:
        """Where the vertical axis begins and ends: at 0, unless that would flatten the points to a line."""
        band = self.band or Band(None, None, "")
        bounds = [bound for bound in (band.low, band.high) if bound is not None]
        low = min([*(point.low for point in self.points), *bounds])
        high = max([*(point.high for point in self.points), *bounds])
        margin = (high - low or abs(high) or 1.0) * 0.06
        if low >= 0 and low < _CUT_ABOVE * high:
            return 0.0, high + margin
        return (max(low - margin, 0.0) if low >= 0 else low - margin), high + margin

    @property
    def cut(self) -> bool:
        """Whether the vertical axis does not begin at 0."""
        return self.axis[0] > 0

    @property
    def scale(self) -> tuple[float, str]:
        """The one unit of the axis: stored units in one of it, and its name."""
        return scale_of(self.axis[1], self.unit)

    def axis_text(self, value: float) -> str:
        """A value in the axis's unit."""
        factor, unit = self.scale
        return f"{value / factor:,.4g} {unit}".strip()

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
        return show_value(self.name, value, self.unit)

    @property
    def words(self) -> str:
        """The plot in words, as its text alternative."""
        least, most = (f(point.value for point in self.points) for f in (min, max))
        what = f"{self.label}{f' ({self.labels})' if self.labels else ''} of step {self.step}"
        said = [
            f"{what} on {self.machine_class}",
            f"one run, {self.first:%Y-%m-%d}"
            if len(self.points) == 1
            else f"{len(self.points)} runs from {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}",
            f"between {self.show(least)} and {self.show(most)}",
            f"the newest {self.show(self.points[-1].value)}",
        ]
        said += [f"expected {self.band.text}"] if self.band else []
        said += [f"{self.points[place].when:%Y-%m-%d} {text}" for place, text in self.changed.items()]
        return "; ".join(said)


def trends(runbook: Runbook, evidence: Evidence) -> tuple[Trend, ...]:
    """The trend of the entry's number, one for each class with records."""
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
