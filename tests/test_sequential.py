import math
import random
from collections.abc import Callable

import pytest

from runner.base.sequential import FEWEST, MOST, answer, repeated_interval, student_quantile
from runner.base.stats import Interval

Noise = Callable[[random.Random], float]
# As seen in prefill: of the logarithm of the ratio of two processes in one environment.
SPREAD = 0.062
SERIES = 2000


def normal(source: random.Random) -> float:
    return source.gauss(0, SPREAD)


def skewed(source: random.Random) -> float:
    """Two processes alike, each slowed down by its own exponential delay."""
    return SPREAD / math.sqrt(2) * (source.expovariate(1) - source.expovariate(1))


def with_outliers(source: random.Random) -> float:
    """In one start of twenty, either process is far off."""
    return source.gauss(0, SPREAD * (8 if source.random() < 0.05 else 1))


NOISE = pytest.mark.parametrize("noise", [normal, skewed, with_outliers])


def stopped(source: random.Random, noise: Noise, ratio: float, bound: float) -> tuple[str, int, Interval]:
    """What a series says at the sample at which it stops, which that is, and the interval there."""
    ratios: list[float] = []
    while True:
        ratios.append(ratio * math.exp(noise(source)))
        interval = repeated_interval(ratios)
        said = answer(interval, bound)
        if said != "undecided" or len(ratios) == MOST:
            return said, len(ratios), interval


@NOISE
def test_at_the_bound_hardly_a_series_is_called_below_or_above_at_any_of_its_looks(noise: Noise) -> None:
    source = random.Random(1)
    said = [stopped(source, noise, 0.95, 0.95)[0] for _ in range(SERIES)]
    # 2.5 % on either side, and three standard errors of the simulation.
    most = SERIES * 0.025 + 3 * math.sqrt(SERIES * 0.025)
    assert said.count("below") <= most
    assert said.count("above") <= most


@NOISE
def test_equal_environments_are_never_called_slower_and_mostly_decided_before_the_last_look(
    noise: Noise,
) -> None:
    source = random.Random(2)
    found = [stopped(source, noise, 1.0, 0.95) for _ in range(SERIES)]
    said = [one[0] for one in found]
    assert said.count("below") <= SERIES * 0.002
    assert said.count("above") >= SERIES * 0.55
    assert sorted(count for _, count, _ in found)[SERIES // 2] < 20


@NOISE
def test_a_loss_of_two_fifths_is_found_in_few_starts(noise: Noise) -> None:
    source = random.Random(3)
    found = [stopped(source, noise, 0.58, 0.9) for _ in range(SERIES)]
    assert all(said == "below" for said, _, _ in found)
    counts = sorted(count for _, count, _ in found)
    assert counts[SERIES // 2] == FEWEST
    assert counts[SERIES * 9 // 10] <= 6


@NOISE
def test_the_interval_at_which_a_series_stops_covers_the_truth_as_often_as_it_says(noise: Noise) -> None:
    source = random.Random(4)
    for ratio, bound in ((1.0, 0.95), (0.93, 0.95), (0.58, 0.9)):
        missed = sum(not stopped(source, noise, ratio, bound)[2].covers(ratio) for _ in range(SERIES))
        assert missed <= SERIES * 0.05 + 3 * math.sqrt(SERIES * 0.05)


def test_too_much_noise_ends_undecided_and_not_wrong() -> None:
    source = random.Random(5)
    said = [stopped(source, lambda one: one.gauss(0, 0.5), 1.0, 0.95)[0] for _ in range(500)]
    assert said.count("undecided") >= 450


@pytest.mark.parametrize("count", range(FEWEST))
def test_of_fewer_than_four_samples_nothing_is_said(count: int) -> None:
    interval = repeated_interval([1.0] * count)
    assert (interval.low, interval.high, interval.confidence) == (0.0, math.inf, None)
    assert answer(interval, 0.95) == "undecided"


def test_a_ratio_and_its_inverse_have_inverse_intervals() -> None:
    ratios = [1.1, 0.9, 1.3, 1.0, 0.95]
    interval, inverse = repeated_interval(ratios), repeated_interval([1 / ratio for ratio in ratios])
    assert (inverse.low, inverse.high) == pytest.approx((1 / interval.high, 1 / interval.low))


def test_an_interval_that_begins_at_the_bound_reaches_it() -> None:
    assert answer(Interval(0.95, 1.0, 0.95), 0.95) == "above"
    assert answer(Interval(0.9, 0.95, 0.95), 0.95) == "undecided"
    assert answer(Interval(0.9, 0.949, 0.95), 0.95) == "below"


@pytest.mark.parametrize(
    ("level", "freedom", "quantile"),
    # Abramowitz and Stegun, table 26.10.
    [(0.005, 1, 63.657), (0.005, 2, 9.925), (0.025, 10, 2.228), (0.005, 23, 2.807), (0.05, 120, 1.658)],
)  # fmt: skip
def test_quantiles_of_students_t_are_those_of_the_tables(level: float, freedom: int, quantile: float) -> None:
    assert student_quantile(level, freedom) == pytest.approx(quantile, abs=6e-4)
