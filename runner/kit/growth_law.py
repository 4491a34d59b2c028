"""Which law a curve of times follows: a power of the size, or an exponential on top of a constant. Pure.

A compiler pays a constant first (imports, set-up), then the part that grows. A straight line in log-log space mixes
the two, and its slope depends on which sizes were taken. So both laws are fitted with a constant, three parameters
each, by least squares of relative residuals, and are compared by what they leave of ln t.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Three parameters; with three points both laws would fit exactly.
FEWEST_SIZES = 4
# Times that grow less than this follow no law that noise could not draw.
LEAST_GROWTH = 1.5
LEAST_R2 = 0.95
# Factors per step and powers that are looked at. A best fit at an end of its range is not determined by the data.
_FACTORS = (1.05, 30.0)
_POWERS = (0.1, 20.0)
_GRID = 200
_REFINEMENTS = 40


@dataclass(frozen=True)
class Line:
    """The line through (ln size, ln time): its slope, and R² of ln time (None where it has only two points)."""

    slope: float
    r2: float | None


@dataclass(frozen=True)
class Exponential:
    """time = constant + growing · factor^(size − largest size).

    Attributes:
        constant: seconds that every size takes.
        factor: by which the rest is multiplied for each further step.
        r2: share of the variance of ln time that the law explains.
        better: it leaves less of ln time than the constant and a power of the size, and enough is explained.
    """

    constant: float
    factor: float
    r2: float
    better: bool


def log_log_line(sizes: Sequence[float], times: Sequence[float]) -> Line | None:
    """The power law without a constant; None with fewer than two different sizes.

    Args:
        sizes: above zero.
        times: in seconds, above zero, one for each size.
    """
    if len(set(sizes)) < 2:  # noqa: PLR2004 - a slope needs two points
        return None
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    slope, intercept = statistics.linear_regression(x, y)
    left = [time - (intercept + slope * size) for size, time in zip(x, y, strict=True)]
    return Line(slope, _r2(left, y) if len(set(sizes)) > 2 else None)  # noqa: PLR2004 - two points are on any line


def exponential(steps: Sequence[int], times: Sequence[float]) -> Exponential | None:
    """The exponential with a constant; None with too few sizes, or where the time hardly grows.

    Args:
        steps: sizes, counted in steps.
        times: in seconds, above zero, one for each size.
    """
    if len(set(steps)) < FEWEST_SIZES or max(times) < LEAST_GROWTH * min(times):
        return None
    largest, logs = max(steps), [math.log(time) for time in times]
    # Both are 1 at the largest size, so that no size overflows.
    by_factor = _best(lambda factor: [factor ** (step - largest) for step in steps], times, _FACTORS)
    by_power = _best(lambda power: [(step / largest) ** power for step in steps], times, _POWERS)
    r2 = _r2(by_factor.left, logs)
    determined = _FACTORS[0] * 1.01 < by_factor.parameter < _FACTORS[1] * 0.99
    less = _squares(by_factor.left) < _squares(by_power.left)
    return Exponential(by_factor.constant, by_factor.parameter, r2, determined and less and r2 >= LEAST_R2)


@dataclass(frozen=True)
class _Fit:
    parameter: float
    constant: float
    left: tuple[float, ...]


def _best(
    shape: Callable[[float], Sequence[float]], times: Sequence[float], among: tuple[float, float]
) -> _Fit:
    """The parameter with the smallest residual: the best of a grid in ln, then a ternary search around it."""
    low, high = math.log(among[0]), math.log(among[1])

    def at(place: float) -> _Fit:
        return _with_constant(math.exp(place), shape(math.exp(place)), times)

    width = (high - low) / _GRID
    best = min((low + step * width for step in range(_GRID + 1)), key=lambda place: _squares(at(place).left))
    left, right = max(low, best - width), min(high, best + width)
    for _ in range(_REFINEMENTS):
        one, other = left + (right - left) / 3, right - (right - left) / 3
        if _squares(at(one).left) <= _squares(at(other).left):
            right = other
        else:
            left = one
    return at((left + right) / 2)


def _with_constant(parameter: float, grown: Sequence[float], times: Sequence[float]) -> _Fit:
    """Fit constant + growing · grown by least squares of relative residuals; neither is negative."""
    weights = [1 / time**2 for time in times]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, grown, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, times, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, grown, strict=True))
    rise = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, grown, times, strict=True))
    growing = max(0.0, rise / spread if spread else 0.0)
    constant = mean_y - growing * mean_x
    if constant < 0:
        constant = 0.0
        square = sum(w * x * x for w, x in zip(weights, grown, strict=True))
        growing = sum(w * x * y for w, x, y in zip(weights, grown, times, strict=True)) / square
    return _Fit(
        parameter,
        constant,
        tuple(
            math.log(y) - math.log(max(constant + growing * x, 1e-300))
            for x, y in zip(grown, times, strict=True)
        ),
    )


def _squares(left: Sequence[float]) -> float:
    return sum(one * one for one in left)


def _r2(left: Sequence[float], values: Sequence[float]) -> float:
    """1 − residual ÷ variance, from 0 to 1; 0 where the values do not vary."""
    mean = statistics.fmean(values)
    variance = sum((value - mean) ** 2 for value in values)
    return min(1.0, max(0.0, 1 - _squares(left) / variance)) if variance else 0.0
