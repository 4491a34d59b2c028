"""A number over time, with what may explain a change of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner.base.units import format_value, scale_of, to_stored
from runner.base.words import bracketed
from runner.entry.digest import is_current
from runner.entry.model import Expectation, Phase, Runbook
from runner.history.conditions import version_changes
from runner.history.series import Point, Series, points_of
from runner.pages.evidence import SiteEvidence
from runner.pages.numbers import show_labels, show_value
from runner.record.evaluation import fits_class, fitting
from runner.record.model import Measurement
from runner.vocabulary import label_of

MOST_POINTS = 60
# The axis begins at 0 unless the least value lies above this share of the greatest.
_CUT_ABOVE = 0.5
# Names of components as readers write them.
_ABBREVIATIONS = {"cuda": "CUDA", "nccl": "NCCL", "cpu": "CPU", "os": "OS"}


@dataclass(frozen=True)
class Band:
    """What is expected of a number, in its stored unit; None where that side is open."""

    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class TrendView:
    """A step's key measurement over time on one class, of one version of the step.

    Attributes:
        points: oldest first, the newest `MOST_POINTS`, of runs of every scope: a plot tests nothing.
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
        limits = (self.band.low, self.band.high) if self.band else ()
        ends = [end for point in self.points for end in (point.low, point.high)]
        ends += [limit for limit in limits if limit is not None]
        low, high = min(ends), max(ends)
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
        """A value in the unit of the axis."""
        factor, unit = self.scale
        return f"{value / factor:,.4g} {unit}".strip()

    def show(self, value: float) -> str:
        """A value of the trend for a reader."""
        return show_value(self.name, value, self.unit)

    @property
    def words(self) -> str:
        """The plot in words, as its text alternative."""
        least, most = (f(point.value for point in self.points) for f in (min, max))
        first, last = (f"{self.points[place].when:%Y-%m-%d}" for place in (0, -1))
        said = [
            f"{self.label}{bracketed(self.labels)} of step {self.step} on {self.machine_class}",
            f"one run, {first}"
            if len(self.points) == 1
            else f"{len(self.points)} runs from {first} to {last}",
            f"between {self.show(least)} and {self.show(most)}",
            f"the newest {self.show(self.points[-1].value)}",
        ]
        said += [f"expected {self.band.text}"] if self.band else []
        said += [f"{self.points[place].when:%Y-%m-%d} {text}" for place, text in self.changed.items()]
        return "; ".join(said)


def trends(runbook: Runbook, evidence: SiteEvidence) -> tuple[TrendView, ...]:
    """The trend of the entry's number, one for each class with records."""
    return tuple(trend for name in evidence.classes if (trend := _trend(runbook, evidence, name)) is not None)


def _trend(runbook: Runbook, evidence: SiteEvidence, machine_class: str) -> TrendView | None:
    verify = [step for step in runbook.steps if step.phase is Phase.VERIFY]
    headline = [step for step in runbook.steps if step.id == runbook.head.headline]
    for step in (*headline, *reversed(verify), *reversed(runbook.steps)):
        measured = evidence.series.get((machine_class, runbook.id, step.id), ())
        if measured:
            break
    else:
        return None
    last = points_of(measured)[-1]
    newest = next(one for one in measured if one.newest is last)
    alike = [one for one in measured if one.kind == newest.kind]
    same = points_of(one for one in alike if one.digest == newest.digest)
    shown = same[-MOST_POINTS:]
    return TrendView(
        machine_class=machine_class,
        step=step.id,
        name=newest.metric,
        labels=show_labels(newest.labels),
        unit=newest.unit,
        points=shown,
        older=len(same) - len(shown),
        otherwise=sum(len(one.points) for one in alike) - len(same),
        changed=_version_changes(shown),
        band=_band(runbook, newest),
        stale=not is_current(newest.digest, runbook, step),
    )


def _version_changes(points: Sequence[Point]) -> dict[int, str]:
    changed: dict[int, str] = {}
    for place, (before, after) in enumerate(pairwise(points), start=1):
        versions = [
            f"{_ABBREVIATIONS.get(name, name)} {old} → {new}"
            for name, old, new in version_changes([before.conditions], [after.conditions])
        ]
        if versions:
            changed[place] = ", ".join(versions)
    return changed


def _band(runbook: Runbook, series: Series) -> Band | None:
    """The bounds that decide this number on this class, narrowed to one band."""
    lows: list[float] = []
    highs: list[float] = []
    texts: list[str] = []
    for bound in runbook.head.expectations:
        if not _concerns(bound, series):
            continue
        factor = to_stored(1.0, bound.unit)[0] if bound.unit else 1.0
        for limit, limits, words in ((bound.min, lows, "at least"), (bound.max, highs, "at most")):
            if limit is not None:
                limits.append(limit * factor)
                texts.append(f"{words} {format_value(limit * factor, series.unit)}")
    if not texts:
        return None
    return Band(max(lows, default=None), min(highs, default=None), " and ".join(dict.fromkeys(texts)))


def _concerns(bound: Expectation, series: Series) -> bool:
    measured = Measurement(
        name=series.metric,
        labels=dict(series.labels),
        value=series.newest.value,
        unit=series.unit,
        statistic="single",
    )
    return (
        bound.metric == f"{series.step}.{series.metric}"
        and bound.over is None
        and bound.evidence.decides
        and fits_class(bound.on, series.machine_class)
        and bool(fitting([measured], series.metric, bound.at))
    )
