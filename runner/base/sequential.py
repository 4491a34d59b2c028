"""Sequential comparison: stop sampling as soon as the result is clear, with a stated error probability.

Samples are positive ratios, taken one by one: speed in one environment over speed in another, one for each pair of
processes. Testing an ordinary 95 % interval after each sample and stopping at the first that excludes the bound is
wrong far more often than 5 %. Here each test uses Student's interval of the mean logarithm at one fixed, stricter
level (Pocock's boundary: S. J. Pocock, Biometrika 64, 1977; its use at the same nominal level with Student's t:
C. Jennison and B. W. Turnbull, Group Sequential Methods, 2000, chapter 4). The intervals of all tests, from the 4th
sample to the 24th, are then simultaneously valid with a probability of 95 %: they are repeated confidence intervals
(Jennison and Turnbull, J. R. Statist. Soc. B 51, 1989), so the interval is valid at whichever sample one stops.

The method assumes that the logarithm of the noise is symmetric, which holds for the difference between two identical
processes however skewed their times are. Heavier tails than the normal distribution's make errors rarer (B. Efron,
J. Am. Statist. Assoc. 64, 1969) and the intervals wider.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

from runner.base.stats import CONFIDENCE, Interval

# With fewer samples there is no interval; with more, the intervals lose the stated simultaneous coverage.
FEWEST, MOST = 4, 24
# One-sided level of each test at which 2.5 % of series on either side are wrong at any of the 21 tests, for normal
# noise: from 100,000 simulated series. tests/test_sequential.py repeats the simulation.
_LEVEL = 0.0038

Answer = Literal["below", "above", "undecided"]


def repeated_interval(ratios: Sequence[float]) -> Interval:
    """The 95 % interval of the geometric mean, simultaneously valid at every number of samples.

    With fewer than four samples, with a sample that is not a positive finite ratio, or if it exceeds the range of a
    float, the interval is 0 to infinity with confidence 0.

    Args:
        ratios: positive, 24 at most.
    """
    if len(ratios) < FEWEST or min(ratios) <= 0:
        return Interval(0.0, math.inf, None)
    logs = [math.log(ratio) for ratio in ratios]
    centre = math.fsum(logs) / len(logs)
    variance = math.fsum((log - centre) ** 2 for log in logs) / (len(logs) - 1)
    reach = math.sqrt(variance / len(logs)) * student_quantile(_LEVEL, len(logs) - 1)
    try:
        return Interval(math.exp(centre - reach), math.exp(centre + reach), CONFIDENCE)
    except OverflowError:
        return Interval(0.0, math.inf, None)


def answer(interval: Interval, bound: float) -> Answer:
    """On which side of the bound the whole interval is; `undecided` if it covers the bound.

    An interval that begins exactly at the bound counts as above, because an expectation of "at least" is met.
    """
    if interval.high < bound:
        return "below"
    return "above" if interval.low >= bound else "undecided"


@functools.lru_cache(maxsize=64)
def student_quantile(level: float, freedom: int) -> float:
    """The t that Student's t with `freedom` degrees of freedom exceeds with probability `level`, for levels below 0.5.

    Computed by bisection on the angle atan(t ÷ √freedom), for which the distribution is a finite sum.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _exceeded(middle, freedom) > level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _exceeded(angle: float, freedom: int) -> float:
    """P(T > tan(angle) · √freedom): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (step - 1) / step
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 - within) / 2
