"""A bound against what was measured: picks the value, its interval, and says what they mean for the bound."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.catalogue import METRICS
from runner.entry.model import Condition, Hardware, Scalar
from runner.errors import InputError
from runner.evidence.record import Measurement, StepResult, Verdict
from runner.hardware.boards import board_named, board_of
from runner.hardware.machine import Machine
from runner.sequential import repeated_interval
from runner.stats import Interval, median_interval, ratio_interval
from runner.units import parse_bytes, to_stored

# The statistic of samples that were taken one by one until they decided (`runner.sequential`).
STOPPED = "geometric mean"


@dataclass(frozen=True)
class Evaluated:
    """What the measurements say about a bound.

    Attributes:
        value: the measured value or ratio, in `unit`; None where there is none to judge.
        unit: the stored unit.
        interval: of the value, from raw samples; None where the point alone decides.
        note: why it was not evaluated, or what else a reader should know.
    """

    verdict: Verdict
    value: float | None
    unit: str
    interval: Interval | None
    note: str | None


class _CannotTellError(Exception):
    """The bound cannot be evaluated; the message says why."""


def evaluate(condition: Condition, steps: Sequence[StepResult], machine: Machine) -> Evaluated:
    """Judge one bound by the steps' measurements on this machine.

    Only steps that ran to their end count. A label that the bound names must be carried by the measurement
    (`8GiB` equals 8589934592); further labels are allowed as long as one measurement alone fits. The interval
    comes from raw samples where the value is their median or geometric mean (`interval_of`); any other statistic is
    judged as it stands.

    Returns:
        `met` or `missed` where the whole interval is on one side of every bound, `inconclusive` where it covers
        one, `not_evaluated` with a note where there is nothing to judge.
    """
    unit = _expected_unit(condition)
    if not fits(condition.on, machine):
        return Evaluated(Verdict.NOT_EVALUATED, None, unit, None, f"meant for {_hardware(condition.on)}")
    try:
        value, unit, interval = _value(condition, steps)
        low, high = _bounds(condition, unit)
    except _CannotTellError as reason:
        return Evaluated(Verdict.NOT_EVALUATED, None, unit, None, str(reason))
    return Evaluated(_verdict(value, interval, low, high), value, unit, interval, None)


def fits(on: Hardware | None, machine: Machine) -> bool:
    """Whether a bound for this hardware means something on this machine.

    A board of the table is recognised by its pattern (an H100 PCIe is no H100 SXM), another one as a word of the
    product name. A GPU cut into MIG slices is not the board that the bound was written for.
    """
    if on is None:
        return True
    if on.gpu.lower() == "none":
        return not machine.gpus and machine.gpu_error is None and on.count is None
    if not machine.gpus or on.count not in (None, len(machine.gpus)):
        return False
    return all(not gpu.mig and _is_board(gpu.name, on.gpu) for gpu in machine.gpus)


_CLASS = re.compile(r"(?P<count>\d+)x(?P<gpu>.+)-\d+GB(?P<mig>-mig)?")


def fits_class(on: Hardware | None, machine_class: str) -> bool:
    """The same of a machine class, which is all that is known where no record exists."""
    if on is None:
        return True
    if on.gpu.lower() == "none":
        return machine_class.startswith("cpu-") and on.count is None
    named = _CLASS.fullmatch(machine_class)
    if named is None or named["mig"] or on.count not in (None, int(named["count"])):
        return False
    return re.search(rf"(?<!\w){re.escape(on.gpu)}(?!\w)", named["gpu"], re.IGNORECASE) is not None


def _is_board(product: str, wanted: str) -> bool:
    known = board_named(wanted)
    if known is not None:
        return board_of(product) == known
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", product, re.IGNORECASE) is not None


def _hardware(on: Hardware | None) -> str:
    if on is None or on.gpu.lower() == "none":
        return "a host without GPUs"
    return f"{on.count or 'any number of'} {on.gpu}"


def _expected_unit(condition: Condition) -> str:
    if condition.unit is not None:
        try:
            return to_stored(0.0, condition.unit)[1]
        except InputError:
            return condition.unit
    metric = METRICS.get(condition.metric.partition(".")[2])
    return "1" if condition.over is not None or metric is None else metric.unit


def _value(condition: Condition, steps: Sequence[StepResult]) -> tuple[float, str, Interval | None]:
    upper = _pick(condition.metric, condition.at, steps)
    if condition.over is None:
        return upper.value, upper.unit, interval_of(upper)
    lower = _pick(condition.over, condition.at if condition.over_at is None else condition.over_at, steps)
    if upper.unit != lower.unit:
        raise _CannotTellError(f"{condition.metric} is in {upper.unit}, {condition.over} in {lower.unit}")
    if lower.value == 0 or not math.isfinite(upper.value / lower.value):
        raise _CannotTellError(f"{condition.over} is too close to 0 to divide by")
    if STOPPED in {upper.statistic, lower.statistic}:
        raise _CannotTellError(
            f"{condition.metric} ÷ {condition.over}: no interval holds for samples stopped early"
        )
    interval = None
    if upper.statistic == lower.statistic == "median":
        interval = ratio_interval(upper.samples, lower.samples)
    return upper.value / lower.value, "1", interval


def interval_of(measurement: Measurement) -> Interval | None:
    """The interval of the value, by its statistic; None where there is none, and the value alone speaks.

    A median has its bootstrap interval. A geometric mean is the value of samples that were taken one by one until they
    decided: its interval is the one that the probe stopped by, so both come to the same verdict.
    """
    if measurement.statistic == STOPPED:
        return repeated_interval(measurement.samples)
    return median_interval(measurement.samples) if measurement.statistic == "median" else None


def _pick(metric: str, at: Mapping[str, Scalar], steps: Sequence[StepResult]) -> Measurement:
    step_id, _, name = metric.partition(".")
    found = [step for step in steps if step.id == step_id]
    if not found:
        raise _CannotTellError(f"step {step_id} was not run")
    step = found[-1]
    if not step.status.finished:
        raise _CannotTellError(
            f"step {step_id}: {step.status}" + (f" ({step.reason})" if step.reason else "")
        )
    found_here = fitting(step.measurements, name, at)
    if not found_here:
        named = any(measurement.name == name for measurement in step.measurements)
        raise _CannotTellError(
            f"step {step_id} measured {name} only at other labels than {_labels(at)}"
            if named
            else f"step {step_id} measured no {name}"
        )
    if len(found_here) > 1:
        raise _CannotTellError(
            f"{metric} was measured at several {differing(found_here)}; name one under `at`"
        )
    return found_here[0]


def fitting(
    measurements: Sequence[Measurement], name: str, at: Mapping[str, Scalar]
) -> tuple[Measurement, ...]:
    """The measurements of this name that carry these labels (`8GiB` equals 8589934592), perhaps with others.

    Labels exactly as written name one measurement, whatever else carries them and more.
    """
    carrying = tuple(one for one in measurements if one.name == name and _carries(one.labels, at))
    exact = tuple(one for one in carrying if len(one.labels) == len(at))
    return exact or carrying


def _carries(labels: Mapping[str, Scalar], at: Mapping[str, Scalar]) -> bool:
    return all(key in labels and _same(labels[key], value) for key, value in at.items())


def _same(one: Scalar, other: Scalar) -> bool:
    # In Python True equals 1, but `cold=true` is not `cold=1`.
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or (_size(one) is not None and _size(one) == _size(other))


def _size(label: Scalar) -> float | None:
    if not isinstance(label, str):
        return float(label)
    try:
        return float(parse_bytes(label))
    except InputError:
        return None


def _labels(labels: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def differing(measurements: Sequence[Measurement]) -> str:
    """Names of the labels in which these measurements differ, as words."""
    keys = sorted({key for measurement in measurements for key in measurement.labels})
    missing = object()
    return ", ".join(
        key
        for key in keys
        if len({str(measurement.labels.get(key, missing)) for measurement in measurements}) > 1
    )


def _bounds(condition: Condition, unit: str) -> tuple[float, float]:
    """The bounds in the stored unit; an infinite one where there is none."""
    factor, stored = 1.0, unit
    if condition.unit is not None:
        try:
            factor, stored = to_stored(1.0, condition.unit)
        except InputError as error:
            raise _CannotTellError(str(error)) from error
    if stored != unit:
        raise _CannotTellError(f"the bound is in {condition.unit}, {condition.metric} in {unit}")
    low = -math.inf if condition.min is None else condition.min * factor
    high = math.inf if condition.max is None else condition.max * factor
    return low, high


def _verdict(value: float, interval: Interval | None, low: float, high: float) -> Verdict:
    least, most = (value, value) if interval is None else (interval.low, interval.high)
    if most < low or least > high:
        return Verdict.MISSED
    return Verdict.MET if least >= low and most <= high else Verdict.INCONCLUSIVE
