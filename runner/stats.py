"""Spread, intervals and comparisons: the only place with statistics.

Samples of timings are skewed and have outliers, so the centre is the median and intervals are bootstrap
intervals (Efron's percentile method). The resampling is seeded, so the same samples give the same interval.
"""

import functools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

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
    above, below = sorted(numerator), sorted(denominator)
    ratios = sorted(
        (above[low] + above[high]) / (below[other_low] + below[other_high])
        for (low, high), (other_low, other_high) in _ranks_of_two(len(above), len(below))
    )
    return _central(ratios)


def _bootstrap(samples: Sequence[float], statistic: Callable[[Sequence[float]], float]) -> Interval:
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    drawn = sorted(statistic(source.choices(samples, k=len(samples))) for _ in range(RESAMPLES))
    return _central(drawn)


def _central(ordered: Sequence[float]) -> Interval:
    tail = (1 - CONFIDENCE) / 2 * 100
    return Interval(percentile(ordered, tail), percentile(ordered, 100 - tail), CONFIDENCE)


def rank_shift(earlier: Sequence[float], recent: Sequence[float]) -> float:
    """Two-sided p-value of "both were drawn alike", by the rank sum of the recent ones (Wilcoxon's test, exact).

    Every way to choose that many of all values is gone through, so the p-value is exact whatever the distribution,
    ties (by their mean rank) included, as long as the values are exchangeable: a steady drift or values that hang
    together in time are found too, and are no error of it. For small samples: the number of ways is (n+k choose k).

    Raises:
        ValueError: one of the two is empty.
    """
    if not earlier or not recent:
        raise ValueError("no samples")
    ordered = sorted([*earlier, *recent])
    # Doubled, so that mean ranks stay whole numbers.
    rank = {value: 2 * ordered.index(value) + ordered.count(value) + 1 for value in ordered}
    ranks = [rank[value] for value in (*earlier, *recent)]
    # The mean of the rank sum, times the number of values, is a whole number: no rounding decides.
    count, chosen = len(ranks), len(recent)
    centre = chosen * sum(ranks)
    seen = abs(count * sum(ranks[-chosen:]) - centre)
    ways = extreme = 0
    for drawn in combinations(ranks, chosen):
        ways += 1
        extreme += abs(count * sum(drawn) - centre) >= seen
    return extreme / ways


@functools.lru_cache(maxsize=64)
def _ranks_of_two(count: int, other: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """The two middle ranks of every resample of both arms; the same whatever the samples, so drawn once."""
    source = random.Random(0)  # noqa: S311 - resampling, not secrecy
    return tuple((_middle(source, count), _middle(source, other)) for _ in range(RESAMPLES))


def _middle(source: random.Random, count: int) -> tuple[int, int]:
    ranks = sorted(source.choices(range(count), k=count))
    return ranks[(count - 1) // 2], ranks[count // 2]
