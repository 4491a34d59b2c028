"""Compares two runs or two machine classes: numbers that differ, are not comparable, or exist in only one. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.base.stats import Interval, ratio, ratio_interval
from runner.entry.model import Scalar
from runner.history.endings import differences, setting_of
from runner.history.trend import SMALLEST
from runner.record.model import Measurement, Record, StepResult
from runner.vocabulary import current_name, metric_of

Ran = tuple[Record, StepResult]
# Entry, step, preset.
Place = tuple[str, str, str]
ONLY_FIRST, ONLY_SECOND = "only in A", "only in B"


@dataclass(frozen=True)
class Row:
    """One number of one step, from both sides or from one.

    Attributes:
        first, second: the two values in `unit`; None if not measured on that side.
        interval: 95 % interval of second ÷ first, from the spread within the two runs.
        verdict: `same`, `no difference shown`, `higher`, `lower`, with `(better)` or `(worse)`; `only in A` (the
            first) or `only in B`; or why there is no verdict.
    """

    runbook: str
    step: str
    metric: str
    labels: Mapping[str, Scalar]
    unit: str
    first: float | None
    second: float | None
    interval: Interval | None
    verdict: str

    @property
    def ratio(self) -> float | None:
        """Second ÷ first; None if a value is missing, or a ratio would be meaningless."""
        return None if self.first is None or self.second is None else ratio(self.second, self.first)

    @property
    def in_both(self) -> bool:
        """Whether both sides have the number."""
        return self.first is not None and self.second is not None


@dataclass(frozen=True)
class Comparison:
    """Every number of either side, and other differences between them.

    Attributes:
        only_first, only_second: steps that the other side does not have, as `entry step`.
    """

    first: str
    second: str
    differences: tuple[str, ...]
    rows: tuple[Row, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_records(first: Record, second: Record) -> Comparison:
    """Compare two runs of one entry, step by step; the second is relative to the first."""
    ours, theirs = (
        {(run.runbook.id, step.id, run.options.preset): (run, step) for step in run.steps}
        for run in (first, second)
    )
    if first.options.preset != second.options.preset:
        # Reported as the reason why they are not comparable, not as numbers that only one side has.
        theirs = {(*place[:2], first.options.preset): ran for place, ran in theirs.items()}
    return _comparison(
        first.run_id, second.run_id, ours, theirs, differences(setting_of(first), setting_of(second))
    )


def compare_classes(finished: Mapping[tuple[str, str, str, str], Ran], first: str, second: str) -> Comparison:
    """Compare the newest numbers of two machine classes at presets that both ran.

    Args:
        finished: the result of `runner.record.store.latest`.
        first: a machine class.
        second: another class, compared with it.
    """
    ours, theirs = (
        {key[1:]: finished[key] for key in sorted(finished) if key[0] == name} for name in (first, second)
    )
    found = [
        difference
        for place, (record, _) in ours.items()
        if place in theirs
        for difference in differences(setting_of(record), setting_of(theirs[place][0]))
    ]
    return _comparison(first, second, ours, theirs, tuple(dict.fromkeys(found)))


def _comparison(
    first: str, second: str, ours: Mapping[Place, Ran], theirs: Mapping[Place, Ran], found: tuple[str, ...]
) -> Comparison:
    return Comparison(
        first=first,
        second=second,
        differences=found,
        # Steps of the first in their order, then those that only the second has.
        rows=tuple(
            row
            for place in dict.fromkeys((*ours, *theirs))
            for row in _rows(place, ours.get(place), theirs.get(place))
        ),
        only_first=_others(ours, theirs),
        only_second=_others(theirs, ours),
    )


def _others(some: Mapping[Place, Ran], others: Mapping[Place, Ran]) -> tuple[str, ...]:
    names = {f"{runbook} {step}" for runbook, step, _ in others}
    return tuple(
        dict.fromkeys(name for runbook, step, _ in some if (name := f"{runbook} {step}") not in names)
    )


def _rows(place: Place, first: Ran | None, second: Ran | None) -> Iterator[Row]:
    ours, theirs = _measured(first), _measured(second)
    blocked = _not_comparable(first, second) if first and second else None
    for key, named in (ours | {key: one for key, one in theirs.items() if key not in ours}).items():
        one, other = ours.get(key), theirs.get(key)
        interval = None
        if one and other and not blocked and one.statistic == other.statistic == "median":
            interval = ratio_interval(other.samples, one.samples)
        yield Row(
            runbook=place[0],
            step=place[1],
            metric=named.name,
            labels=named.labels,
            unit=named.unit,
            first=one.value if one else None,
            second=other.value if other else None,
            interval=interval,
            verdict=_verdict(one, other, interval, blocked),
        )


def _measured(ran: Ran | None) -> dict[tuple[str, str, str], Measurement]:
    return {_key(one): one for one in ran[1].measurements} if ran else {}


def _not_comparable(one: Ran, two: Ran) -> str | None:
    """Why two results may not be compared, or None."""
    (first, step), (second, other) = one, two
    for which in (step, other):
        if not which.status.finished:
            return f"not comparable: {which.status}" + (f" ({which.reason})" if which.reason else "")
    if step.digest != other.digest:
        return "not comparable: the step has changed between them"
    if first.options.preset != second.options.preset:
        return f"not comparable: preset {first.options.preset} against {second.options.preset}"
    if step.fallback_reason != other.fallback_reason:
        return "not comparable: one of them used a fallback"
    return None


def _key(measurement: Measurement) -> tuple[str, str, str]:
    return current_name(measurement.name), measurement.unit, repr(sorted(measurement.labels.items()))


def _verdict(
    one: Measurement | None, other: Measurement | None, interval: Interval | None, blocked: str | None
) -> str:
    if one is None or other is None:
        alone = ONLY_SECOND if one is None else ONLY_FIRST
        return f"{alone}; {blocked}" if blocked else alone
    if blocked:
        return blocked
    if one.value == other.value:
        return "same"
    if interval is None and one.samples:
        return f"unknown: no interval for the {one.statistic} of {len(one.samples)} samples"
    low, high = (interval.low, interval.high) if interval else (0.0, 0.0)
    if interval and low <= 1 + SMALLEST and high >= 1 - SMALLEST:
        return "no difference shown"
    word = "higher" if other.value > one.value else "lower"
    metric = metric_of(one.name)
    if metric is None or metric.better is None:
        return word
    return f"{word} ({'better' if word == metric.better else 'worse'})"
