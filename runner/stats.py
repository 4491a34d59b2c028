"""Spread, intervals and comparisons: the only place with statistics.

Samples of timings are skewed and have outliers, so the centre is the median and intervals are bootstrap
intervals (Efron's percentile method). The resampling is seeded, so the same samples give the same interval.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 1000
# Below this many samples a bootstrap interval is too narrow to be believed; the range of the samples is used.
FEWEST_FOR_BOOTSTRAP = 5


@dataclass(frozen=True)
class Interval:
    """A closed interval, and how sure it is (`None` for a bare range of samples)."""

    low: float
    high: float
    confidence: float | None

    def covers(self, value: float) -> bool:
        """Whether the value lies inside."""
        return self.low <= value <= self.high


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
    return _bootstrap(samples, statistics.median)


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval | None:
    """Interval of median(numerator) / median(denominator) for two arms sampled apart from each other.

    For samples taken in interleaved pairs, form the ratios pair by pair and use `median_interval`.
    None where either arm has fewer than two samples or a denominator that is not positive.
    """
    if min(len(numerator), len(denominator)) < 2 or min(denominator, default=0.0) <= 0:  # noqa: PLR2004
        return None
    if min(len(numerator), len(denominator)) < FEWEST_FOR_BOOTSTRAP:
        return Interval(min(numerator) / max(denominator), max(numerator) / min(denominator), None)
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    ratios = sorted(
        statistics.median(source.choices(numerator, k=len(numerator)))
        / statistics.median(source.choices(denominator, k=len(denominator)))
        for _ in range(RESAMPLES)
    )
    return _central(ratios)


def _bootstrap(samples: Sequence[float], statistic: Callable[[Sequence[float]], float]) -> Interval:
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    drawn = sorted(statistic(source.choices(samples, k=len(samples))) for _ in range(RESAMPLES))
    return _central(drawn)


def _central(ordered: Sequence[float]) -> Interval:
    tail = (1 - CONFIDENCE) / 2 * 100
    return Interval(percentile(ordered, tail), percentile(ordered, 100 - tail), CONFIDENCE)


# Modified z-score beyond which a value stands out (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
OUTLYING_SCORE = 3.5
# However closely the others agree, a value nearer to the median than this share of it does not stand out.
OUTLYING_SHARE = 0.05
# Of fewer values nobody can say which one is odd.
FEWEST_FOR_OUTLIERS = 5
_MAD_OF_NORMAL = 0.6745


@dataclass(frozen=True)
class Fence:
    """Between `low` and `high` a value is one of the crowd around `median`."""

    median: float
    low: float
    high: float


def fence(values: Sequence[float]) -> Fence | None:
    """Where values begin to stand out: 3.5 scaled median absolute deviations from the median, and at least 5 % of it.

    The median and the median absolute deviation (MAD) are moved by no outlier as long as half of the values are
    sound. None for fewer than five values.
    """
    if len(values) < FEWEST_FOR_OUTLIERS:
        return None
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    reach = max(OUTLYING_SCORE * mad / _MAD_OF_NORMAL, OUTLYING_SHARE * abs(middle))
    return Fence(middle, middle - reach, middle + reach)
