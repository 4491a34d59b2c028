"""Measurements put into words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.base.stats import Interval, percentile
from runner.base.units import format_bytes, format_value
from runner.entry.model import Scalar
from runner.history.change import scale_of_change
from runner.history.endings import RanStep
from runner.record.evaluation import interval_of
from runner.record.model import Measurement
from runner.vocabulary import label_of, metric_of


@dataclass(frozen=True)
class Number:
    """One measured value as a reader sees it.

    Attributes:
        name: its identifier; `label` is its human name.
        value: in the stored unit; of several nodes their median.
        spread: the interval beneath it, or the range over nodes, in words; empty for one reading.
        taken: from what the value comes: `median of 5 samples`, `median of 3 nodes`, `one reading`.
        better: higher, lower, or None where neither is.
        fallback: why its step did other work than was asked for (eager instead of compiled); empty if it did not.
    """

    name: str
    label: str
    labels: str
    value: float
    unit: str
    shown: str
    spread: str
    taken: str
    meaning: str
    better: str | None
    fallback: str = ""


def number(measurement: Measurement, nodes: Sequence[Measurement] = ()) -> Number:
    """Put a measurement into words, with all of its labels: a bandwidth means nothing without its size.

    Args:
        measurement: the newest.
        nodes: the same measurement of every node of the class, this one included, where there are several.
    """
    metric = metric_of(measurement.name)
    value, unit = measurement.value, measurement.unit
    if len(nodes) > 1:
        values = [one.value for one in nodes]
        value = percentile(values, 50)
        spread = " … ".join(show_value(measurement.name, one, unit) for one in (min(values), max(values)))
        taken = f"median of {len(values)} nodes"
    else:
        spread, taken = show_interval(interval_of(measurement), unit), _taken(measurement)
    return Number(
        name=measurement.name,
        label=label_of(measurement.name),
        labels=show_labels(measurement.labels),
        value=value,
        unit=unit,
        shown=show_value(measurement.name, value, unit),
        spread=spread,
        taken=taken,
        meaning=metric.meaning if metric else "",
        better=metric.better if metric else None,
    )


def show_value(name: str, value: float, unit: str) -> str:
    """A value of a metric for a reader: a flag as yes or no, a count of tokens with its noun."""
    if scale_of_change(name, unit) == "flag" and value in {0, 1}:
        return "yes" if value else "no"
    text = format_value(value, unit)
    return f"{text} {_NOUNS[name]}" if name in _NOUNS else text


# Counts whose unit is 1 in storage, and what they count.
_NOUNS = {"longest_fitting": "tokens", "predicted_longest": "tokens"}


def _taken(measurement: Measurement) -> str:
    count = len(measurement.samples)
    if count > 1:
        return f"{measurement.statistic} of {count} samples"
    return "one reading" if measurement.statistic in {"single", "median"} else measurement.statistic


def across_nodes(found: Sequence[RanStep], measurement: Measurement) -> tuple[Measurement, ...]:
    """The measurement as every node reported it: same name, same labels."""
    if len(found) == 1:
        return (measurement,)
    return tuple(
        one
        for _, result in found
        for one in result.measurements
        if (one.name, one.labels, one.unit) == (measurement.name, measurement.labels, measurement.unit)
    )


def show_labels(labels: Mapping[str, Scalar]) -> str:
    """`batch size 1, bytes 8GiB, op all_reduce, your environment`."""

    def shown(name: str, value: Scalar) -> str:
        words = name.replace("_", " ") if name.isidentifier() else name
        return f"{words} {format_bytes(value) if name == 'bytes' and isinstance(value, int) else value}"

    return ", ".join(_ARMS.get(pair) or shown(*pair) for pair in sorted(labels.items()))


# A step that compares environments measures the reader's own and, as its control, a clean one.
_ARMS: Mapping[tuple[str, Scalar], str] = {
    ("arm", "caller"): "your environment",
    ("arm", "clean"): "clean environment",
}


def show_interval(interval: Interval | None, unit: str) -> str:
    """`359 MB/s … 441 MB/s (95 %)`; empty if there is none or it is unbounded."""
    if interval is None or not interval.bounded:
        return ""
    sure = f"{interval.confidence:.0%} interval" if interval.confidence else "range"
    return f"{format_value(interval.low, unit)} … {format_value(interval.high, unit)} ({sure})"
