import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.significance import run_changes
from runner.base.stats import (
    median_interval,
    percentile,
    quadratic_fit,
    ratio,
    ratio_interval,
    spread,
)

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


def series(source: random.Random, modes: int, turns: int, **changed: float) -> dict[str, list[float]]:
    """Samples of several series with 1 % of noise."""
    return {
        f"m{n}": [(n + 1) * changed.get(f"m{n}", 1.0) * source.gauss(1, 0.01) for _ in range(turns)]
        for n in range(modes)
    }


def test_any_false_report_over_all_series_together_is_as_rare_as_it_says() -> None:
    source = random.Random(11)
    called = 0
    for _ in range(300):
        found = run_changes(series(source, 4, 12), series(source, 4, 12), permutations=399)
        called += any(one.clear for one in found.values())
    # 1 % of 300 is 3; ten or more would happen once in a thousand times.
    assert called < 10


def test_a_change_is_found_beside_series_that_did_not_change_and_its_ratio_is_right() -> None:
    source = random.Random(12)
    found = run_changes(series(source, 4, 12), series(source, 4, 12, m2=0.9))
    assert {name for name, one in found.items() if one.clear} == {"m2"}
    assert found["m2"].ratio == pytest.approx(0.9, rel=0.02)


@given(st.lists(st.floats(min_value=0.1, max_value=10), min_size=1, max_size=12))
def test_samples_compared_with_themselves_are_no_change_nor_are_they_in_another_order(
    samples: list[float],
) -> None:
    for again in (samples, samples[::-1]):
        [found] = run_changes({"m": samples}, {"m": again}, permutations=99).values()
        assert found.ratio == pytest.approx(1)
        assert not found.clear


def test_the_comparison_is_the_same_every_time_and_blind_to_units() -> None:
    source = random.Random(13)
    before, after = series(source, 2, 6), series(source, 2, 6, m0=1.02)
    thousandfold = [{name: [1e3 * one for one in of] for name, of in run.items()} for run in (before, after)]
    assert run_changes(before, after) == run_changes(before, after)
    for name, one in run_changes(thousandfold[0], thousandfold[1]).items():
        assert one.probability == pytest.approx(run_changes(before, after)[name].probability, abs=0.01)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_hardly_anything_can_be_found_in_fewer_than_four_turns(turns: int) -> None:
    found = run_changes({"m": [1.0, 1.01, 0.99][:turns]}, {"m": [9.0, 9.01, 8.99][:turns]})
    assert not found["m"].clear


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": [1.0]}, {"b": [1.0]}, "same series"),
        ({"a": [1.0, 2.0], "b": [1.0]}, {"a": [1.0], "b": [1.0]}, "the same number of turns"),
        ({"a": [1.0, 0.0]}, {"a": [1.0, 2.0]}, "must be positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    before: dict[str, list[float]], after: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_changes(before, after)


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
    with pytest.raises(ValueError, match="three points with different x"):
        quadratic_fit(points)


@pytest.mark.parametrize(
    ("upper", "lower", "expected"),
    [
        (3.0, 2.0, 1.5),
        (0.0, 2.0, 0.0),
        (2.0, 0.0, None),
        (-1.0, 2.0, None),
        (1.0, -2.0, None),
        (1e308, 1e-308, None),
    ],
)
def test_a_ratio_that_says_nothing_is_none(upper: float, lower: float, expected: float | None) -> None:
    assert ratio(upper, lower) == expected
