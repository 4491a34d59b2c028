"""Evaluates a bound: picks the measured value and its interval, and gives the verdict.

The notes are stored with verdicts, and the gate compares them: a changed wording makes stored records fail the gate.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.base.errors import InputError
from runner.base.sequential import repeated_interval
from runner.base.stats import Interval, median_interval, ratio_interval
from runner.base.units import parse_bytes, to_stored
from runner.entry.model import Condition, Hardware, Scalar
from runner.hardware.boards import board_named
from runner.hardware.machine import Machine, machine_class
from runner.record.model import Measurement, StepResult, Verdict
from runner.vocabulary import METRICS

# The statistic of samples from sequential sampling (`runner.base.sequential`).
STOPPED = "geometric mean"


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a bound.

    Attributes:
        value: the measured value or ratio, in `unit`; None if there is none.
        unit: the stored unit.
        interval: of the value, from raw samples; None if only the value decides.
        note: why it was not evaluated, or further information.
    """

    verdict: Verdict
    value: float | None
    unit: str
    interval: Interval | None
    note: str | None


class _NotEvaluatedError(Exception):
    """The bound cannot be evaluated; the message says why."""


def evaluate(condition: Condition, steps: Sequence[StepResult], machine: Machine) -> Evaluated:
    """Evaluate one bound by the measurements of the steps on this machine.

    Only finished steps count. The measurement must have every label that the bound names (`8GiB` equals 8589934592);
    further labels are allowed if exactly one measurement matches. The interval comes from raw samples if the value is
    their median or geometric mean (`interval_of`); any other statistic is judged by its value.

    A simulated step measured nothing. Only where the whole run was simulated, and so is never shown, its steps are
    judged as a real node's would be.

    Returns:
        `met` or `missed` if the whole interval is on one side of every bound, `inconclusive` if it covers one,
        `not_evaluated` with a note if there is nothing to evaluate.
    """
    unit = _expected_unit(condition)
    if not fits(condition.on, machine):
        return Evaluated(Verdict.NOT_EVALUATED, None, unit, None, f"meant for {_hardware(condition.on)}")
    try:
        value, unit, interval = _value(condition, steps, rehearsed=machine.simulated)
        low, high = _bounds(condition, unit)
    except _NotEvaluatedError as reason:
        return Evaluated(Verdict.NOT_EVALUATED, None, unit, None, str(reason))
    return Evaluated(_verdict(value, interval, low, high), value, unit, interval, None)


def fits(on: Hardware | None, machine: Machine) -> bool:
    """Whether a bound for this hardware applies to this machine, by its machine class.

    The class is taken from its list of GPUs: a joint measurement of several nodes is judged like one of the nodes.
    """
    return fits_class(on, machine_class(machine.gpus, machine.gpu_error, machine.processor))


_JOINT = re.compile(r"\d+-nodes-of-")
_GPUS = re.compile(r"(?P<count>\d+)x")
_KIND = re.compile(r"(?P<count>\d+)x(?P<kind>(?P<product>.+)-\d+GB)")


def fits_class(on: Hardware | None, machine_class: str) -> bool:
    """Whether a bound for this hardware applies to a machine class; used where no record exists.

    A board of the table must match exactly (an H100 PCIe is not an H100 SXM); any other board matches by the words of
    its product name. A MIG slice does not match the bound of its board.
    """
    if on is None:
        return True
    single = _JOINT.sub("", machine_class, count=1)
    if on.gpu.lower() == "none":
        return single.startswith("cpu-") and on.count is None
    gpus = [_GPUS.match(one) for one in single.split("+")]
    installed = sum(int(one["count"]) for one in gpus if one)
    if on.gpu.lower() == "any":
        return installed > 0 and on.count in (None, installed)
    kinds = [_KIND.fullmatch(one) for one in single.split("+")]
    return on.count in (None, installed) and all(
        kind is not None and _is_board(kind, on.gpu) for kind in kinds
    )


def _hardware(on: Hardware | None) -> str:
    if on is None or on.gpu.lower() == "none":
        return "a host without GPUs"
    return f"{on.count or 'any number of'} {'GPUs' if on.gpu.lower() == 'any' else on.gpu}"


def _is_board(found: re.Match[str], wanted: str) -> bool:
    known = board_named(wanted)
    if known is not None:
        return found["kind"] == known.kind
    words = re.sub(r"[^A-Za-z0-9]+", "-", wanted).strip("-")
    pattern = rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])"
    return bool(words) and re.search(pattern, found["product"], re.IGNORECASE) is not None


def _expected_unit(condition: Condition) -> str:
    if condition.unit is not None:
        try:
            return to_stored(0.0, condition.unit)[1]
        except InputError:
            return condition.unit
    metric = METRICS.get(condition.metric.partition(".")[2])
    return "1" if condition.over is not None or metric is None else metric.unit


def _value(
    condition: Condition, steps: Sequence[StepResult], *, rehearsed: bool
) -> tuple[float, str, Interval | None]:
    upper = _pick(condition.metric, condition.at, steps, rehearsed=rehearsed)
    if condition.over is None:
        return upper.value, upper.unit, interval_of(upper)
    over_at = condition.at if condition.over_at is None else condition.over_at
    lower = _pick(condition.over, over_at, steps, rehearsed=rehearsed)
    if upper.unit != lower.unit:
        raise _NotEvaluatedError(f"{condition.metric} is in {upper.unit}, {condition.over} in {lower.unit}")
    if lower.value == 0 or not math.isfinite(upper.value / lower.value):
        raise _NotEvaluatedError(f"{condition.over} is too close to 0 to divide by")
    if STOPPED in {upper.statistic, lower.statistic}:
        raise _NotEvaluatedError(
            f"{condition.metric} ÷ {condition.over}: no interval holds for samples stopped early"
        )
    interval = None
    if upper.statistic == lower.statistic == "median":
        interval = ratio_interval(upper.samples, lower.samples)
    return upper.value / lower.value, "1", interval


def interval_of(measurement: Measurement) -> Interval | None:
    """The interval of the value, by its statistic; None if there is none, so that only the value decides.

    A median has a bootstrap interval. A geometric mean comes from sequential sampling: its interval is the one that the
    probe used to stop, so both give the same verdict.
    """
    if measurement.statistic == STOPPED:
        return repeated_interval(measurement.samples)
    return median_interval(measurement.samples) if measurement.statistic == "median" else None


def _pick(
    metric: str, at: Mapping[str, Scalar], steps: Sequence[StepResult], *, rehearsed: bool
) -> Measurement:
    step_id, _, name = metric.partition(".")
    found = [step for step in steps if step.id == step_id]
    if not found:
        raise _NotEvaluatedError(f"step {step_id} was not run")
    step = found[-1]
    if not step.status.finished:
        raise _NotEvaluatedError(
            f"step {step_id}: {step.status}" + (f" ({step.reason})" if step.reason else "")
        )
    if step.simulated and not rehearsed:
        raise _NotEvaluatedError(f"step {step_id}: simulated, not counted")
    found_here = fitting(step.measurements, name, at)
    if not found_here:
        named = any(measurement.name == name for measurement in step.measurements)
        raise _NotEvaluatedError(
            f"step {step_id} measured {name} only at other labels than {_labels(at)}"
            if named
            else f"step {step_id} measured no {name}"
        )
    if len(found_here) > 1:
        raise _NotEvaluatedError(
            f"{metric} was measured at several {differing(found_here)}; name one under `at`"
        )
    return found_here[0]


def fitting(
    measurements: Sequence[Measurement], name: str, at: Mapping[str, Scalar]
) -> tuple[Measurement, ...]:
    """The measurements of this name that have at least these labels (`8GiB` equals 8589934592).

    A measurement with exactly these labels wins over those with more.
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
    """The names of the labels in which these measurements differ, comma-separated."""
    keys = sorted({key for measurement in measurements for key in measurement.labels})
    missing = object()
    return ", ".join(
        key
        for key in keys
        if len({str(measurement.labels.get(key, missing)) for measurement in measurements}) > 1
    )


def _bounds(condition: Condition, unit: str) -> tuple[float, float]:
    """The bounds in the stored unit; infinite if there is none."""
    factor, stored = 1.0, unit
    if condition.unit is not None:
        try:
            factor, stored = to_stored(1.0, condition.unit)
        except InputError as error:
            raise _NotEvaluatedError(str(error)) from error
    if stored != unit:
        raise _NotEvaluatedError(f"the bound is in {condition.unit}, {condition.metric} in {unit}")
    low = -math.inf if condition.min is None else condition.min * factor
    high = math.inf if condition.max is None else condition.max * factor
    return low, high


def _verdict(value: float, interval: Interval | None, low: float, high: float) -> Verdict:
    least, most = (value, value) if interval is None else (interval.low, interval.high)
    if most < low or least > high:
        return Verdict.MISSED
    return Verdict.MET if least >= low and most <= high else Verdict.INCONCLUSIVE
