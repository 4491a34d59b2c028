"""Numbers over time: detects changes with a rank test, and lists other changes at the same time. Pure.

A number is compared only with earlier ones of its series (`runner.history.series`). The newest `RECENT` runs are
compared with up to `WINDOW` runs before them by an exact rank test. A single run is never compared with the one before
it, and at least `FEWEST` earlier runs are needed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from runner.base.significance import rank_shift
from runner.base.stats import Spread, spread
from runner.entry.model import Phase, Runbook
from runner.history.change import is_better, is_small, plain_ratio
from runner.history.conditions import differences
from runner.history.series import Point, Series, read_series
from runner.record.model import Record

RECENT = 3
WINDOW = 20
# The minimum for which the test can reach its level: (9+3 choose 3) = 220 arrangements, two of them most extreme.
FEWEST = 9
LEVEL = 0.01


@dataclass(frozen=True)
class TrendChange:
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
        return plain_ratio(self.series.metric, self.series.unit, self.before.median, self.after.median)

    @property
    def direction(self) -> Literal["better", "worse", "different"]:
        """Whether the change is good or bad for the metric."""
        good = is_better(self.series.metric, rose=self.after.median > self.before.median)
        return "different" if good is None else "better" if good else "worse"


@dataclass(frozen=True)
class TrendReport:
    """All changes, the number of tested series, and the number of series with too few runs."""

    changes: tuple[TrendChange, ...]
    tested: int
    too_short: int

    @property
    def false_alarms(self) -> float:
        """The expected number of false changes among the tested series (an upper limit)."""
        return self.tested * LEVEL


def trend(records: Iterable[Record], runbooks: Sequence[Runbook] = ()) -> TrendReport:
    """Test every current series once, at its newest runs.

    Args:
        records: in any order.
        runbooks: the entries; a run under a former id of an entry is one of the entry.
    """
    series = current(read_series(records, runbooks))
    tested = [one for one in series if len(_halves(one)[0]) >= FEWEST]
    changes = [found for one in tested if (found := newest_change(one))]
    return TrendReport(tuple(changes), len(tested), len(series) - len(tested))


def current(series: Iterable[Series]) -> tuple[Series, ...]:
    """The series that say something about the node today.

    Left out are injected faults, fallbacks, and numbers of an earlier version of a step, which are history.
    """
    counted = [one for one in series if one.phase is not Phase.REPRODUCE and not one.fallback]
    newest: dict[tuple[object, ...], tuple[datetime, str]] = {}
    for one in counted:
        last = (one.newest.when, one.digest)
        newest[_step(one)] = max(last, newest.get(_step(one), last))
    return tuple(one for one in counted if one.digest == newest[_step(one)][1])


def _step(series: Series) -> tuple[object, ...]:
    return series.machine_class, series.runbook, series.step, series.scope


def newest_change(series: Series) -> TrendChange | None:
    """The change of the newest runs of a series relative to the window before them, or None."""
    window, recent = _halves(series)
    if len(window) < FEWEST:
        return None
    earlier, newest = [point.value for point in window], [point.value for point in recent]
    p_value = rank_shift(earlier, newest)
    before, after = spread(earlier), spread(newest)
    if p_value > LEVEL or is_small(series.unit, before.median, after.median):
        return None
    causes = differences(*([point.conditions for point in points] for points in (window, recent)))
    return TrendChange(series, before, after, p_value, causes)


def _halves(series: Series) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    return series.points[:-RECENT][-WINDOW:], series.points[-RECENT:]
