"""Two runs, or two machine classes, side by side: which numbers differ, and which may not be compared. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.catalogue import metric_of
from runner.entry.model import Scalar
from runner.evidence.record import Measurement, Record, StepResult
from runner.evidence.trend import SMALLEST
from runner.evidence.turns import differences
from runner.stats import Interval, ratio, ratio_interval

Ran = tuple[Record, StepResult]


@dataclass(frozen=True)
class Row:
    """One number of one step in both.

    Attributes:
        first, second: the two values in `unit`; None where it was not measured there.
        interval: of second ÷ first, from the spread within the two runs.
        verdict: `same`, `no difference shown`, `higher`, `lower`, with `(better)` or `(worse)`; or why there is none.
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
        """Second ÷ first; None where one is missing, or a ratio would say nothing."""
        return None if self.first is None or self.second is None else ratio(self.second, self.first)


@dataclass(frozen=True)
class Comparison:
    """Every number of the two, and what else differs between them."""

    first: str
    second: str
    differences: tuple[str, ...]
    rows: tuple[Row, ...]


def compare_records(first: Record, second: Record) -> Comparison:
    """Two runs, step by step; the second is held against the first."""
    pairs = [
        ((first, one), (second, other))
        for one in first.steps
        for other in second.steps
        if one.id == other.id and first.runbook.id == second.runbook.id
    ]
    return Comparison(first.run_id, second.run_id, differences(first, second), _rows(pairs))


def compare_classes(finished: Mapping[tuple[str, str, str, str], Ran], first: str, second: str) -> Comparison:
    """The newest numbers of two machine classes at presets that both ran; versions differ and are named.

    Args:
        finished: what `runner.evidence.store.latest` gives.
        first: a machine class.
        second: another one, held against it.
    """
    pairs = [
        (ran, finished[second, runbook, step, preset])
        for (machine_class, runbook, step, preset), ran in sorted(finished.items(), key=lambda item: item[0])
        if machine_class == first and (second, runbook, step, preset) in finished
    ]
    found = [name for (one, _), (other, _) in pairs for name in differences(one, other)]
    return Comparison(first, second, tuple(dict.fromkeys(found)), _rows(pairs))


def _rows(pairs: Sequence[tuple[Ran, Ran]]) -> tuple[Row, ...]:
    rows = []
    for (record, step), (other_record, other_step) in pairs:
        hindrance = _hindrance(record, step, other_record, other_step)
        theirs = {_key(one): one for one in other_step.measurements}
        for one in step.measurements:
            other = theirs.get(_key(one))
            interval = None
            if other and not hindrance and one.statistic == other.statistic == "median":
                interval = ratio_interval(other.samples, one.samples)
            rows.append(
                Row(
                    runbook=record.runbook.id,
                    step=step.id,
                    metric=one.name,
                    labels=one.labels,
                    unit=one.unit,
                    first=one.value,
                    second=other.value if other else None,
                    interval=interval,
                    verdict=hindrance or _verdict(one, other, interval),
                )
            )
    return tuple(rows)


def _hindrance(first: Record, step: StepResult, second: Record, other: StepResult) -> str | None:
    """Why two results may not be compared, or None."""
    for which in (step, other):
        if not which.status.finished:
            return f"not comparable: {which.status}" + (f" ({which.reason})" if which.reason else "")
    if step.digest != other.digest:
        return "not comparable: the step has changed between them"
    if first.options.preset != second.options.preset:
        return f"not comparable: preset {first.options.preset} against {second.options.preset}"
    if step.fallback_reason != other.fallback_reason:
        return "not comparable: one of them fell back"
    return None


def _key(measurement: Measurement) -> tuple[str, str, str]:
    return measurement.name, measurement.unit, repr(sorted(measurement.labels.items()))


def _verdict(one: Measurement, other: Measurement | None, interval: Interval | None) -> str:
    if other is None:
        return "measured only in the first"
    if one.value == other.value:
        return "same"
    if interval is None and one.samples:
        return f"cannot say: no interval of the {one.statistic} of {len(one.samples)} samples"
    low, high = (interval.low, interval.high) if interval else (0.0, 0.0)
    if interval and low <= 1 + SMALLEST and high >= 1 - SMALLEST:
        return "no difference shown"
    word = "higher" if other.value > one.value else "lower"
    metric = metric_of(one.name)
    if metric is None or metric.better is None:
        return word
    return f"{word} ({'better' if word == metric.better else 'worse'})"
