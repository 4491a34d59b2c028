"""Spread, intervals, outliers and fits of samples.

Samples of timings are skewed and have outliers, so the centre is the median and intervals are bootstrap
intervals (Efron's percentile method). The resampling is seeded, so the same samples give the same interval.
"""

import functools
import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

CONFIDENCE = 0.95
RESAMPLES = 1000
# Below this many samples a bootstrap interval is too narrow; the range of the samples is used instead.
FEWEST_FOR_BOOTSTRAP = 5


@dataclass(frozen=True)
class Interval:
    """A closed interval and its confidence level (`None` for a plain range of samples)."""

    low: float
    high: float
    confidence: float | None

    @property
    def bounded(self) -> bool:
        """Whether the interval is bounded above: false for 0 to infinity."""
        return math.isfinite(self.high)

    def covers(self, value: float, margin: float = 0.0) -> bool:
        """Whether the value, or one that differs from it by at most `margin`, lies inside."""
        return self.low <= value + margin and self.high >= value - margin


@dataclass(frozen=True)
class Spread:
    """Summary of samples: count, median, quartiles, 95th percentile, extremes; in the samples' unit."""

    count: int
    median: float
    low: float
    high: float
    p25: float
    p75: float
    p95: float


def percentile(samples: Sequence[float], percent: float) -> float:
    """The percentile by linear interpolation between closest ranks.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(samples: Sequence[float]) -> Spread:
    """Summarise samples.

    Raises:
        ValueError: no samples.
    """
    return Spread(
        count=len(samples),
        median=percentile(samples, 50),
        low=min(samples, default=0.0),
        high=max(samples, default=0.0),
        p25=percentile(samples, 25),
        p75=percentile(samples, 75),
        p95=percentile(samples, 95),
    )


def median_interval(samples: Sequence[float]) -> Interval | None:
    """Interval of the median: bootstrap for five samples or more, their range for two to four, else None."""
    if len(samples) < 2:  # noqa: PLR2004 - one sample has no spread
        return None
    if len(samples) < FEWEST_FOR_BOOTSTRAP:
        return Interval(min(samples), max(samples), None)
    ordered = sorted(samples)
    # Many resamples have the same two middle ranks: their median is computed and sorted once.
    medians = sorted(
        ((ordered[low] + ordered[high]) / 2, times) for (low, high), times in _median_ranks(len(ordered))
    )
    return _central([median for median, times in medians for _ in range(times)])


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval | None:
    """Interval of median(numerator) / median(denominator) for two arms sampled independently.

    For samples taken in interleaved pairs, form the ratios pair by pair and use `median_interval`.
    None if either arm has fewer than two samples or a denominator is not positive.
    """
    if min(len(numerator), len(denominator)) < 2 or min(denominator, default=0.0) <= 0:  # noqa: PLR2004
        return None
    if min(len(numerator), len(denominator)) < FEWEST_FOR_BOOTSTRAP:
        return Interval(min(numerator) / max(denominator), max(numerator) / min(denominator), None)
    above, below = sorted(numerator), sorted(denominator)
    ratios = sorted(
        (above[low] + above[high]) / (below[other_low] + below[other_high])
        for (low, high), (other_low, other_high) in _ranks_of_two(len(above), len(below))
    )
    return _central(ratios)


@functools.lru_cache(maxsize=64)
def _median_ranks(count: int) -> tuple[tuple[tuple[int, int], int], ...]:
    """The two middle ranks of resamples of `count` samples, and how many resamples have them. Drawn once per count."""
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    drawn = (sorted(source.choices(range(count), k=count)) for _ in range(RESAMPLES))
    return tuple(Counter((ranks[(count - 1) // 2], ranks[count // 2]) for ranks in drawn).items())


@functools.lru_cache(maxsize=64)
def _ranks_of_two(count: int, other: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """The two middle ranks of every resample of both arms; independent of the samples, so drawn once."""
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    return tuple((_middle(source, count), _middle(source, other)) for _ in range(RESAMPLES))


def _middle(source: random.Random, count: int) -> tuple[int, int]:
    ranks = sorted(source.choices(range(count), k=count))
    return ranks[(count - 1) // 2], ranks[count // 2]


def _central(ordered: Sequence[float]) -> Interval:
    tail = (1 - CONFIDENCE) / 2 * 100
    return Interval(percentile(ordered, tail), percentile(ordered, 100 - tail), CONFIDENCE)


# Modified z-score above which a value is an outlier (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
OUTLYING_SCORE = 3.5
# A value within this share of the median is not an outlier, however small the spread of the others.
OUTLYING_SHARE = 0.05
# With fewer values, an outlier cannot be identified.
FEWEST_FOR_OUTLIERS = 5
_MAD_OF_NORMAL = 0.6745


@dataclass(frozen=True)
class Fence:
    """The range of values around `median`; a value outside `low` to `high` is an outlier."""

    median: float
    low: float
    high: float


def fence(values: Sequence[float]) -> Fence | None:
    """The outlier limits: 3.5 scaled median absolute deviations from the median, and at least 5 % of it.

    Outliers do not move the median or the median absolute deviation (MAD) while at least half of the values are
    normal. None for fewer than five values.
    """
    if len(values) < FEWEST_FOR_OUTLIERS:
        return None
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    reach = max(OUTLYING_SCORE * mad / _MAD_OF_NORMAL, OUTLYING_SHARE * abs(middle))
    return Fence(middle, middle - reach, middle + reach)


def ratio(upper: float, lower: float) -> float | None:
    """`upper` ÷ `lower`; None if either is negative, `lower` is 0, or the result overflows."""
    if upper < 0 or lower <= 0:
        return None
    found = upper / lower
    return found if math.isfinite(found) else None


def quadratic_fit(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The least-squares parabola a + b·x + c·x² through points (x, y), as (a, b, c).

    The normal equations are solved in fractions, because powers of large x exceed a float's precision.

    Raises:
        ValueError: fewer than three different x.
    """
    if len({x for x, _ in points}) < 3:  # noqa: PLR2004 - three coefficients
        raise ValueError("a parabola needs three points with different x")
    exact = [(Fraction(x), Fraction(y)) for x, y in points]
    powers = [sum((x**n for x, _ in exact), Fraction()) for n in range(5)]
    rows = [[*powers[n : n + 3], sum((x**n * y for x, y in exact), Fraction())] for n in range(3)]
    for place in range(3):
        pivot = next(row for row in rows[place:] if row[place])
        rows.remove(pivot)
        rows.insert(place, [value / pivot[place] for value in pivot])
        for number, row in enumerate(rows):
            if number != place:
                rows[number] = [one - row[place] * two for one, two in zip(row, rows[place], strict=True)]
    a, b, c = (float(row[3]) for row in rows)
    return a, b, c
