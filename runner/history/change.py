"""How a number differs between two measurements of it, and whether the difference is more than noise. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from runner.base.stats import Interval, ratio, ratio_interval
from runner.record.evaluation import interval_of
from runner.record.model import Measurement
from runner.vocabulary import metric_of

# With fewer samples on a side, two ranges are disjoint by chance too often to report a change.
FEWEST_FOR_VERDICT = 3
# Two runs of one node differ although nothing has changed: a smaller share is no change between runs.
SMALLEST_BETWEEN_RUNS = 0.02
# Two 95 % intervals both hold in at least this share of cases.
BOTH_HOLD = 0.9
DECIBELS_PER_DECADE = 10.0
# Powers of more decibels exceed the range of a float.
_MOST_DECIBELS = 3000.0

Scale = Literal["ratio", "decibels", "signed", "flag"]


class Doubt(StrEnum):
    """Why a difference has no verdict."""

    ONE_READING = "no interval: one reading each"
    NO_INTERVAL = "no interval"
    COVERED = "no clear change"
    FEW_SAMPLES = f"no verdict from fewer than {FEWEST_FOR_VERDICT} samples"


@dataclass(frozen=True)
class Factor:
    """After ÷ before, of powers if the unit is dB.

    Attributes:
        interval: None if it is unknown.
        samples: the number of samples of the side with fewer.
    """

    value: float
    interval: Interval | None
    samples: int


@dataclass(frozen=True)
class Change:
    """The change of one number.

    Attributes:
        factor: relative to the control, if there is one; None where a ratio has no meaning.
        drift: how the control changed; None without one.
        same: the two values are equal.
        doubt: why there is no verdict; None if there is one, or if the values are equal.
        good: whether it went in the good direction of the metric; None without a verdict or such a direction.
    """

    before: Measurement
    after: Measurement
    scale: Scale
    factor: Factor | None
    drift: Factor | None
    same: bool
    doubt: Doubt | None
    good: bool | None


def change_between(
    before: Measurement,
    after: Measurement,
    control: tuple[Measurement, Measurement] | None = None,
    margin: float = 0.0,
) -> Change:
    """The change of one measurement.

    Args:
        before: the number to compare with.
        after: the same metric, in the same unit.
        control: what measured the same before and after, and to which the change is relative.
        margin: a change is clear if its interval lies outside 1 ± margin.
    """
    scale = scale_of_change(after.name, after.unit)
    factor = _factor(before, after, scale)
    drift = _factor(*control, scale) if control and factor and scale == "ratio" else None
    if factor and drift:
        factor = _relative(factor, drift)
    same = before.value == after.value and drift is None
    doubt = None if same else _doubt(before, after, factor, margin)
    clear = factor is not None and not same and doubt is None
    good = is_better(after.name, rose=factor.value > 1) if clear and factor else None
    return Change(before, after, scale, factor, drift, same, doubt, good)


def scale_of_change(name: str, unit: str) -> Scale:
    """How two values of a metric are compared: by their ratio, as decibels, by their difference, or as yes and no."""
    metric = metric_of(name)
    if metric is not None and metric.kind == "flag":
        return "flag"
    if unit == "dB":
        return "decibels"
    return "signed" if metric is not None and metric.kind == "signed" else "ratio"


def plain_ratio(name: str, unit: str, before: float, after: float) -> float | None:
    """After ÷ before; None if the values have no ratio scale, or it would be meaningless."""
    return ratio(after, before) if scale_of_change(name, unit) == "ratio" else None


def is_small(unit: str, before: float, after: float) -> bool:
    """Whether a difference between runs is too small to report: a share of the value; of the power for decibels."""
    if unit == "dB":
        before, after = 1.0, _power(min(after - before, _MOST_DECIBELS))
    return abs(after - before) <= SMALLEST_BETWEEN_RUNS * abs(before)


def is_better(name: str, *, rose: bool) -> bool | None:
    """Whether a rise or a fall is good for a metric; None if neither direction is."""
    metric = metric_of(name)
    return None if metric is None or metric.better is None else rose == (metric.better == "higher")


def _doubt(before: Measurement, after: Measurement, factor: Factor | None, margin: float) -> Doubt | None:
    if factor is None or factor.interval is None:
        sides = (before, after)
        single = all(one.statistic in {"single", "median"} and len(one.samples) <= 1 for one in sides)
        return Doubt.ONE_READING if single else Doubt.NO_INTERVAL
    if factor.interval.covers(1.0, margin):
        return Doubt.COVERED
    return Doubt.FEW_SAMPLES if factor.samples < FEWEST_FOR_VERDICT else None


def _factor(before: Measurement, after: Measurement, scale: Scale) -> Factor | None:
    if scale in {"flag", "signed"}:
        return None
    if scale == "decibels":
        if max(abs(value) for one in (before, after) for value in (one.value, *one.samples)) > _MOST_DECIBELS:
            return None
        before, after = _as_power(before), _as_power(after)
    value = ratio(after.value, before.value)
    if not value:
        return None
    samples = min(len(before.samples), len(after.samples))
    if before.statistic == after.statistic == "median":
        return Factor(value, ratio_interval(after.samples, before.samples), samples)
    above, below = interval_of(after), interval_of(before)
    if above and below and above.bounded and below.bounded and below.low > 0:
        return Factor(value, _quotient(above, below), samples)
    return Factor(value, None, samples)


def _as_power(one: Measurement) -> Measurement:
    """Decibels are logarithms: their difference is what a ratio is to other units."""
    return one.model_copy(update={"value": _power(one.value), "samples": tuple(map(_power, one.samples))})


def _power(decibels: float) -> float:
    return float(10 ** (decibels / DECIBELS_PER_DECADE))


def _relative(found: Factor, drifted: Factor) -> Factor:
    """The change without the drift: after ÷ before of the one over after ÷ before of the other."""
    interval = None
    if found.interval and drifted.interval and drifted.interval.low > 0:
        interval = _quotient(found.interval, drifted.interval)
    return Factor(found.value / drifted.value, interval, min(found.samples, drifted.samples))


def _quotient(above: Interval, below: Interval) -> Interval:
    """Every quotient of the two, so that it holds wherever both hold."""
    sure = None if above.confidence is None or below.confidence is None else BOTH_HOLD
    return Interval(above.low / below.high, above.high / below.low, sure)
