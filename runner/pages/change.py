"""The change of a number from the fault to the fix, in words. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from runner.base.units import format_value
from runner.history.change import BOTH_HOLD, DECIBELS_PER_DECADE, Change, Factor, change_between
from runner.record.model import Measurement


@dataclass(frozen=True)
class ChangeText:
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
    why: str
    same: bool
    drift: str


def change_text(
    before: Measurement, after: Measurement, control: tuple[Measurement, Measurement] | None = None
) -> ChangeText:
    """The change of one measurement.

    Args:
        before: in a step with the fault.
        after: the same measurement in a step after the fix.
        control: the arm that never had the fault, in the same two steps; the change is given relative to it.
    """
    found = change_between(before, after, control)
    why = str(found.doubt or "")
    if found.scale == "flag" and why:
        why = "one reading each"
    drift = f"the control changed {_times(found.drift)} between the two steps" if found.drift else ""
    return ChangeText(_text(found), found.good, why, found.same, drift)


def _text(found: Change) -> str:
    before, after = found.before.value, found.after.value
    if found.scale == "flag":
        was, is_now = ("yes" if value else "no" for value in (before, after))
        return f"still {was}" if found.same else f"{was} → {is_now}"
    if found.same:
        return "unchanged"
    if found.factor is None:
        return _signed(after - before, found.after.unit)
    if found.scale == "decibels":
        return _in_words(found.factor, lambda factor: _signed(_decibels(factor), "dB"), after - before)
    return _times(found.factor)


def _decibels(factor: float) -> float:
    return DECIBELS_PER_DECADE * math.log10(factor) if factor > 0 else -math.inf


def _signed(value: float, unit: str) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{format_value(abs(value), unit)}"


def _times(found: Factor) -> str:
    return f"× {_in_words(found, lambda factor: format_value(factor, '1'))}"


def _in_words(found: Factor, show: Callable[[float], str], difference: float | None = None) -> str:
    value = show(found.value) if difference is None else _signed(difference, "dB")
    if found.interval is None or not found.interval.bounded:
        return value
    low, high, sure = found.interval.low, found.interval.high, found.interval.confidence
    at_least = "at least " if sure == BOTH_HOLD else ""
    kind = "range of the samples" if sure is None else f"{at_least}{sure:.0%} interval"
    return f"{value} ({show(low)} … {show(high)}, {kind})"
