"""Compares two runs or two machine classes: numbers that differ, are not comparable, or exist in only one. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.base.stats import Interval
from runner.entry.model import Scalar
from runner.history.change import SMALLEST_BETWEEN_RUNS, Change, Doubt, change_between, plain_ratio
from runner.history.conditions import conditions_of, differences
from runner.history.endings import RanStep
from runner.record.model import Measurement, Record
from runner.record.simulated import was_simulated
from runner.vocabulary import current_name

# Entry, step, preset.
_Place = tuple[str, str, str]
_Results = Mapping[_Place, RanStep]
ONLY_FIRST, ONLY_SECOND = "only in A", "only in B"


@dataclass(frozen=True)
class ComparedNumber:
    """One number of one step, from both sides or from one.

    Attributes:
        first, second: the two values in `unit`; None if not measured on that side.
        interval: 95 % interval of second ÷ first, from the spread within the two runs; at least 90 % for a geometric
            mean. None where a ratio has no meaning.
        verdict: `same`, `no difference shown`, or `higher` or `lower`, with `(better)`, `(worse)`, or the reason why it
            is neither; `only in A` (the first) or `only in B`; or why there is no verdict.
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
        if self.first is None or self.second is None:
            return None
        return plain_ratio(self.metric, self.unit, self.first, self.second)

    @property
    def in_both(self) -> bool:
        """Whether both sides have the number."""
        return self.first is not None and self.second is not None


@dataclass(frozen=True)
class RunComparison:
    """Every number of either side, and other differences between them.

    Attributes:
        only_first, only_second: steps that the other side does not have, as `entry step`.
    """

    first: str
    second: str
    differences: tuple[str, ...]
    rows: tuple[ComparedNumber, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_records(first: Record, second: Record) -> RunComparison:
    """Compare two runs of one entry, step by step; the second is relative to the first."""
    # Another preset is reported as the reason why they are not comparable, not as numbers that only one side has.
    preset = first.options.preset
    ours, theirs = (
        {(run.runbook.id, step.id, preset): (run, step) for step in run.steps} for run in (first, second)
    )
    return _comparison(first.run_id, second.run_id, ours, theirs, _differences(first, second))


def compare_classes(
    finished: Mapping[tuple[str, str, str, str], RanStep], first: str, second: str
) -> RunComparison:
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
        for difference in _differences(record, theirs[place][0])
    ]
    return _comparison(first, second, ours, theirs, tuple(dict.fromkeys(found)))


def _differences(first: Record, second: Record) -> tuple[str, ...]:
    return differences([conditions_of(first)], [conditions_of(second)])


def _comparison(
    first: str,
    second: str,
    ours: _Results,
    theirs: _Results,
    found: tuple[str, ...],
) -> RunComparison:
    return RunComparison(
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


def _others(some: _Results, others: _Results) -> tuple[str, ...]:
    names = {f"{runbook} {step}" for runbook, step, _ in others}
    return tuple(
        dict.fromkeys(name for runbook, step, _ in some if (name := f"{runbook} {step}") not in names)
    )


def _rows(place: _Place, first: RanStep | None, second: RanStep | None) -> Iterator[ComparedNumber]:
    ours, theirs = _measured(first), _measured(second)
    blocked = _not_comparable(first, second) if first and second else None
    for key, named in (ours | {key: one for key, one in theirs.items() if key not in ours}).items():
        one, other = ours.get(key), theirs.get(key)
        interval = None
        if one is None or other is None:
            verdict = ONLY_SECOND if one is None else ONLY_FIRST
            verdict += f"; {blocked}" if blocked else ""
        elif blocked:
            verdict = blocked
        else:
            change = change_between(one, other, margin=SMALLEST_BETWEEN_RUNS)
            verdict = _verdict(change)
            interval = change.factor.interval if change.factor and change.scale == "ratio" else None
        yield ComparedNumber(
            runbook=place[0],
            step=place[1],
            metric=named.name,
            labels=named.labels,
            unit=named.unit,
            first=one.value if one else None,
            second=other.value if other else None,
            interval=interval,
            verdict=verdict,
        )


def _measured(ran: RanStep | None) -> dict[tuple[str, str, str], Measurement]:
    return {
        (current_name(one.name), one.unit, repr(sorted(one.labels.items()))): one
        for one in (ran[1].measurements if ran and not _is_simulated(ran) else ())
    }


def _is_simulated(ran: RanStep) -> bool:
    record, step = ran
    return step.simulated or was_simulated(record)


def _not_comparable(one: RanStep, two: RanStep) -> str | None:
    """Why two results may not be compared, or None."""
    (first, step), (second, other) = one, two
    if _is_simulated(one) or _is_simulated(two):
        return "not comparable: simulated"
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


def _verdict(change: Change) -> str:
    if change.same:
        return "same"
    word = "higher" if change.after.value > change.before.value else "lower"
    match change.doubt:
        case None:
            return word if change.good is None else f"{word} ({'better' if change.good else 'worse'})"
        case Doubt.COVERED:
            return "no difference shown"
        case Doubt.FEW_SAMPLES:
            return f"unknown: {change.doubt}"
    if change.before.samples:
        return (
            f"unknown: no interval for the {change.before.statistic} of {len(change.before.samples)} samples"
        )
    return f"{word} ({'one reading each' if change.doubt is Doubt.ONE_READING else 'no interval'})"
