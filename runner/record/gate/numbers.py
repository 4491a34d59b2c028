"""Checks one measurement: its probe may report the metric, and the value follows from its samples and is possible."""

import math
from collections.abc import Iterator

from runner.base.summaries import SINGLE, STATISTICS
from runner.base.units import format_value
from runner.record.ceilings import ceiling
from runner.record.gate.words import AGAIN, quoted
from runner.record.model import Measurement, Record, StepResult
from runner.vocabulary import PROBES, RETIRED, Metric, current_name, metric_of

# A statistic may be rounded once more than the samples, or summed in a different order.
_ROUNDING = 1e-9
# Tools that report a mean without its samples.
_WITHOUT_SAMPLES = frozenset({("nccl_tests", "mean")})


def measurement_problems(measurement: Measurement, record: Record, step: StepResult) -> Iterator[str]:
    """Problems with one measurement of a step."""
    name, unit = measurement.name, measurement.unit
    metric = metric_of(name)
    if metric is None:
        yield f"{name} is not a known metric; declare it in the module of its probe"
        return
    if metric.unit != unit:
        yield f"{name} is in {unit}, but its stored unit is {metric.unit}; a number in another unit needs another name"
    yield from _declared(measurement, metric, step)
    values = (measurement.value, *measurement.samples)
    yield from _possible(measurement, metric, values)
    if step.simulated:
        # The hardware that it stands for is not this machine's; the number is shown nowhere.
        yield from _of_its_samples(measurement, step)
        return
    highest = ceiling(measurement, record.machine, step)
    if highest is not None and max(values) > highest * (1 + _ROUNDING):
        found, most = (format_value(value, unit) for value in (max(values), highest))
        yield f"{name} is {found}, above the physical limit of {most}; correct the measurement"
    if measurement.labels.get("backend") == "nccl" and not record.machine.gpus:
        yield f"{name} was measured over NCCL on a machine without GPUs; {AGAIN}"
    yield from _of_its_samples(measurement, step)


def _declared(measurement: Measurement, metric: Metric, step: StepResult) -> Iterator[str]:
    name, info = measurement.name, PROBES.get(step.probe or "")
    if info is None:
        return
    earlier = (step.method_version or 0) < info.method_version
    if current_name(name) not in info.emits and not (name in RETIRED and earlier):
        yield f"{name} is not a metric that {step.probe} reports; declare it in its module if it does"
        return
    foreign = sorted(set(measurement.labels) - set(info.labels))
    if foreign:
        yield f"{name} has the label {quoted(foreign[0])}, which {step.probe} does not report; {AGAIN}"
    if measurement.statistic not in metric.statistics:
        known = " or ".join(metric.statistics)
        yield f"{name} has the statistic {quoted(measurement.statistic)}, expected {known}; {AGAIN}"


def _possible(measurement: Measurement, metric: Metric, values: tuple[float, ...]) -> Iterator[str]:
    name, lowest = measurement.name, min(values)
    if metric.kind != "signed" and lowest < 0:
        yield f"{name} is {format_value(lowest, measurement.unit)}, below zero; {AGAIN}"
    if metric.kind in {"count", "flag"} and any(value % 1 for value in values):
        yield f"{name} is a count, but not a whole number; {AGAIN}"


def _of_its_samples(measurement: Measurement, step: StepResult) -> Iterator[str]:
    name, statistic, samples = measurement.name, measurement.statistic, measurement.samples
    if statistic == SINGLE:
        if samples not in {(), (measurement.value,)}:
            yield f"{name} has the statistic single, but other samples; {AGAIN}"
        return
    function = STATISTICS.get(statistic)
    if function is None:
        return
    if not samples:
        if (step.probe, statistic) not in _WITHOUT_SAMPLES:
            yield f"{name} has the statistic {statistic}, but no samples; {AGAIN}"
        return
    try:
        found = function(samples)
    except (ValueError, OverflowError):
        found = math.nan
    slack = _ROUNDING * max(map(abs, samples))
    if not abs(found - measurement.value) <= slack:
        where = (
            "is outside" if not min(samples) <= measurement.value <= max(samples) else "does not follow from"
        )
        yield f"{name}: its {statistic} {where} its samples; {AGAIN}"
