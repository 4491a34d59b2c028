import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.stats import median_interval, percentile, quadratic_fit, ratio_interval, spread

SAMPLES = st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=1, max_size=40)


@given(SAMPLES)
def test_spread_is_ordered_and_holds_every_sample(samples: list[float]) -> None:
    found = spread(samples)
    assert found.low <= found.p25 <= found.median <= found.p75 <= found.p95 <= found.high
    assert found.low == min(samples)
    assert found.high == max(samples)
    assert found.count == len(samples)


def test_percentile_interpolates_between_closest_ranks() -> None:
    assert percentile([10, 20, 30, 40], 50) == pytest.approx(25)
    assert percentile([10, 20, 30, 40], 0) == pytest.approx(10)
    assert percentile([10, 20, 30, 40], 100) == pytest.approx(40)


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_one_sample_has_no_interval() -> None:
    assert median_interval([3.0]) is None
    assert ratio_interval([3.0], [1.0, 2.0]) is None


def test_few_samples_give_their_range_and_no_confidence() -> None:
    found = median_interval([3.0, 1.0, 2.0])
    assert found is not None
    assert (found.low, found.high, found.confidence) == (1.0, 3.0, None)


@given(SAMPLES)
def test_the_interval_stays_within_the_samples_and_is_the_same_every_time(samples: list[float]) -> None:
    found = median_interval(samples)
    assert found == median_interval(samples)
    if found is not None:
        assert min(samples) <= found.low <= found.high <= max(samples)


def test_the_interval_of_the_median_covers_the_true_median_about_as_often_as_it_says() -> None:
    source = random.Random(7)
    covered = 0
    for _ in range(200):
        found = median_interval([source.lognormvariate(0, 0.3) for _ in range(25)])
        assert found is not None
        covered += found.covers(1.0)
    assert 178 <= covered <= 200  # 95 % of 200 less three standard errors, and the bootstrap's known optimism


def test_a_ratio_that_is_clear_excludes_one() -> None:
    source = random.Random(1)
    slow = [source.gauss(2.0, 0.05) for _ in range(20)]
    fast = [source.gauss(1.0, 0.05) for _ in range(20)]
    found = ratio_interval(slow, fast)
    assert found is not None
    assert 1.8 < found.low < found.high < 2.2


def test_a_ratio_over_nothing_has_no_interval() -> None:
    assert ratio_interval([1.0, 2.0], [0.0, 1.0]) is None


@given(
    st.tuples(*[st.integers(-(10**12), 10**12)] * 3),
    st.lists(st.integers(1, 200_000), min_size=3, max_size=8, unique=True),
)
def test_a_parabola_is_found_again_from_its_own_points(
    wanted: tuple[int, int, int], places: list[int]
) -> None:
    a, b, c = wanted
    assert quadratic_fit([(x, a + b * x + c * x * x) for x in places]) == (a, b, c)


def test_a_parabola_through_scattered_points_is_the_one_of_least_squares() -> None:
    points = [(0.0, 1.0), (1.0, 0.0), (2.0, 3.0), (3.0, 4.0), (4.0, 9.0)]

    def error(a: float, b: float, c: float) -> float:
        return sum((a + b * x + c * x * x - y) ** 2 for x, y in points)

    a, b, c = quadratic_fit(points)
    least = error(a, b, c)
    for step in (-0.01, 0.01):
        assert least < min(error(a + step, b, c), error(a, b + step, c), error(a, b, c + step))


@pytest.mark.parametrize("points", [[], [(1.0, 1.0), (2.0, 2.0)], [(1.0, 1.0)] * 5])
def test_a_parabola_takes_three_different_points(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="three different points"):
        quadratic_fit(points)
