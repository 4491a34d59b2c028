"""How one number changed from the fault to the fix, and whether the change is more than noise. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from runner.base.stats import Interval, ratio, ratio_interval
from runner.base.units import format_value
from runner.record.bounds_checked import interval_of
from runner.record.model import Measurement
from runner.vocabulary import Metric, metric_of

# With fewer samples in each step, two ranges are disjoint by chance too often to report a change.
FEWEST_FOR_VERDICT = 3
# Two 95 % intervals both hold in at least this share of cases.
_BOTH = 0.9
_DECIBELS_PER_DECADE = 10.0


@dataclass(frozen=True)
class Change:
    """One change, in words.

    Attributes:
        text: the change with its interval: `× 1.75 (1.62 … 1.92, 95 % interval)`, `+27.7 dB`, `no → yes`.
        good: whether it went in the good direction; None unless the interval excludes no change.
        why: why there is no verdict, empty where there is one.
        same: the two values are equal.
        drift: how the control arm changed between the two steps, where it was measured; `text` is relative to it.
    """

    text: str
    good: bool | None
    why: str = ""
    drift: str = ""
    same: bool = False


@dataclass(frozen=True)
class _Factor:
    """after ÷ before of a ratio scale; `interval` is None if it is unknown."""

    value: float
    interval: Interval | None
    samples: int


def change(
    before: Measurement, after: Measurement, control: tuple[Measurement, Measurement] | None = None
) -> Change:
    """The change of one measurement.

    Args:
        before: in a step with the fault.
        after: the same measurement in a step after the fix.
        control: the arm that never had the fault, in the same two steps; the change is given relative to it.
    """
    metric = metric_of(after.name)
    if metric is not None and metric.kind == "flag":
        return _of_flags(before.value, after.value)
    if after.unit == "dB":
        return _of_decibels(before, after, metric)
    if before.value == after.value and control is None:
        return Change("unchanged", None, same=True)
    found = _factor(before, after)
    if found is None or (metric is not None and metric.kind == "signed"):
        return _difference(before, after)
    if control is not None and (drifted := _factor(*control)) is not None:
        drift = f"the control changed {_times(drifted)} between the two steps"
        return _verdict(_relative(found, drifted), 1.0, metric, _times, drift=drift, why=_none(before, after))
    return _verdict(found, 1.0, metric, _times, why=_none(before, after))


def _of_flags(before: float, after: float) -> Change:
    said = {True: "yes", False: "no"}
    was, is_now = said[bool(before)], said[bool(after)]
    if was == is_now:
        return Change(f"still {was}", None, same=True)
    return Change(f"{was} → {is_now}", None, "one reading each")


def _of_decibels(before: Measurement, after: Measurement, metric: Metric | None) -> Change:
    """Decibels are logarithms: their difference is what a ratio is to other units."""

    def linear(one: Measurement) -> Measurement:
        samples = tuple(10 ** (sample / _DECIBELS_PER_DECADE) for sample in one.samples)
        return one.model_copy(update={"value": 10 ** (one.value / _DECIBELS_PER_DECADE), "samples": samples})

    if before.value == after.value:
        return Change("unchanged", None, same=True)
    found = _factor(linear(before), linear(after))
    if found is None:
        return _difference(before, after)

    def logarithmic(value: float) -> float:
        return _DECIBELS_PER_DECADE * math.log10(value) if value > 0 else -math.inf

    interval = found.interval and Interval(
        logarithmic(found.interval.low), logarithmic(found.interval.high), found.interval.confidence
    )
    difference = _Factor(after.value - before.value, interval, found.samples)
    return _verdict(difference, 0.0, metric, lambda one: _in_words(one, _decibels), why=_none(before, after))


def _difference(before: Measurement, after: Measurement) -> Change:
    """Where a ratio has no meaning: one of the two is 0, or the scale is signed."""
    less = after.value - before.value
    sign = "+" if less > 0 else "−"
    return Change(f"{sign}{format_value(abs(less), after.unit)}", None, _none(before, after), same=not less)


def _factor(before: Measurement, after: Measurement) -> _Factor | None:
    value = ratio(after.value, before.value)
    if not value:
        return None
    samples = min(len(before.samples), len(after.samples))
    if before.statistic == after.statistic == "median":
        return _Factor(value, ratio_interval(after.samples, before.samples), samples)
    above, below = interval_of(after), interval_of(before)
    if above and below and above.bounded and below.bounded and below.low > 0:
        return _Factor(value, _quotient(above, below), samples)
    return _Factor(value, None, samples)


def _relative(found: _Factor, drifted: _Factor) -> _Factor:
    """The change less the drift: after ÷ before of the one over after ÷ before of the other."""
    interval = None
    if found.interval and drifted.interval and drifted.interval.low > 0:
        interval = _quotient(found.interval, drifted.interval)
    return _Factor(found.value / drifted.value, interval, min(found.samples, drifted.samples))


def _quotient(above: Interval, below: Interval) -> Interval:
    """Every quotient of the two, so that it holds wherever both hold."""
    sure = None if above.confidence is None or below.confidence is None else _BOTH
    return Interval(above.low / below.high, above.high / below.low, sure)


def _verdict(
    found: _Factor,
    unchanged: float,
    metric: Metric | None,
    words: Callable[[_Factor], str],
    *,
    why: str,
    drift: str = "",
) -> Change:
    text = words(found)
    if found.interval is None:
        return Change(text, None, why, drift)
    if found.interval.covers(unchanged):
        return Change(text, None, "no clear change", drift)
    if found.samples < FEWEST_FOR_VERDICT:
        return Change(text, None, f"no verdict from fewer than {FEWEST_FOR_VERDICT} samples", drift)
    if metric is None or metric.better is None:
        return Change(text, None, "", drift)
    return Change(text, (found.value > unchanged) == (metric.better == "higher"), "", drift)


def _none(before: Measurement, after: Measurement) -> str:
    """The reason for a missing interval."""
    single = all(one.statistic in {"single", "median"} and len(one.samples) <= 1 for one in (before, after))
    return "no interval: one reading each" if single else "no interval"


def _times(found: _Factor) -> str:
    return f"× {_in_words(found, lambda value: format_value(value, '1'))}"


def _decibels(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{format_value(abs(value), 'dB')}"


def _in_words(found: _Factor, show: Callable[[float], str]) -> str:
    if found.interval is None or not found.interval.bounded:
        return show(found.value)
    low, high, sure = found.interval.low, found.interval.high, found.interval.confidence
    at_least = "at least " if sure == _BOTH else ""
    kind = "range of the samples" if sure is None else f"{at_least}{sure:.0%} interval"
    return f"{show(found.value)} ({show(low)} … {show(high)}, {kind})"
