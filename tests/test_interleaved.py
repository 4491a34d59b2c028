"""Rounds of interleaved samples: their order, their end, and the ratios of their pairs."""

import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.sequential import FEWEST, MOST, repeated_interval
from runner.base.stats import median_interval
from runner.kit.budget import Budget, seconds_of
from runner.kit.interleaved import (
    Rounds,
    alternated,
    decided,
    interleaved,
    interval_below,
    no_time,
    paired_ratios,
)
from runner.kit.probe import measured
from runner.record.evaluation import STOPPED

FOREVER = Budget(math.inf)


def order_of(rounds: Rounds, names: str = "abc") -> str:
    """The arms in the order in which they were sampled."""
    taken: list[str] = []

    def sampling(name: str) -> Callable[[int], None]:
        return lambda _: taken.append(name)

    interleaved({name: sampling(name) for name in names}, rounds)
    return "".join(taken)


@pytest.mark.parametrize(
    ("rounds", "order"),
    [
        (Rounds(3, FOREVER), "abc cba abc"),
        (Rounds(3, FOREVER, first=1), "cba abc cba"),
        (Rounds(2, FOREVER, passes=2), "abc cba abc cba"),
        (Rounds(0, FOREVER), ""),
    ],
)
def test_neither_arm_is_always_first(rounds: Rounds, order: str) -> None:
    assert order_of(rounds) == order.replace(" ", "")


def test_an_arm_gets_the_number_of_the_round_and_its_samples_stay_in_order() -> None:
    taken = interleaved({"one": lambda number: number, "ten": lambda number: 10 * number}, Rounds(4, FOREVER))
    assert taken == {"one": [0, 1, 2, 3], "ten": [0, 10, 20, 30]}


@given(st.integers(1, 9), st.integers(1, 9))
def test_when_the_time_is_over_only_the_fewest_rounds_are_taken_and_their_number_is_told(
    most: int, fewest: int
) -> None:
    told: list[int] = []
    over = Budget(time.monotonic() - 1)
    assert len(list(Rounds(most, over, fewest=fewest, late=told.append))) == min(most, fewest)
    assert told == ([fewest] if fewest < most else [])


@pytest.mark.parametrize(("expect", "rounds"), [(max, 2), (lambda took: took[-1], 5), (no_time, 6)])
def test_a_round_that_is_not_expected_to_end_in_time_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, expect: Callable[..., float], rounds: int
) -> None:
    """Simulated: the first round takes 4 seconds, every other 1, and nothing else takes any time."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    taken = 0
    for number in Rounds(9, Budget(108.5), expect=expect):
        clock[0] += 1.0 if number else 4.0
        taken += 1
    assert taken == rounds


def test_rounds_end_as_soon_as_the_ratios_answer_the_question() -> None:
    slower: list[float] = []

    def enough(_: int) -> bool:
        return decided([repeated_interval(slower)], 0.9)

    late: list[int] = []
    slower.extend(
        0.5 + 0.01 * (number % 2) for number in Rounds(MOST, FOREVER, enough=enough, late=late.append)
    )
    assert (len(slower), late) == (FEWEST, [])


def test_a_question_is_decided_if_one_interval_is_below_or_all_are_above() -> None:
    low, high, open_ = (repeated_interval([ratio] * FEWEST) for ratio in (0.5, 1.0, -1.0))
    assert decided([low, open_], 0.9)
    assert decided([high, high], 0.9)
    assert not decided([high, open_], 0.9)


def test_ratios_are_taken_round_by_round_and_a_missing_sample_takes_its_round_with_it() -> None:
    assert paired_ratios([2.0, None, 9.0, 8.0], [1.0, 2.0, None, 4.0]) == [2.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        paired_ratios([1.0, 2.0], [1.0])


def test_names_are_reversed_for_every_odd_number() -> None:
    assert [alternated("ab", number) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_the_seconds_of_a_call_are_those_between_its_begin_and_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter((1.0, 3.5))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert seconds_of(lambda: None) == 2.5


def test_a_ratio_is_below_a_bound_only_with_its_whole_interval() -> None:
    ratio = measured("environment_ratio", [0.80, 0.81, 0.82, 0.83, 0.84])
    assert interval_below(ratio, 0.9) == median_interval(ratio.samples)
    assert interval_below(ratio, 0.83) is None
    assert interval_below(measured("environment_ratio", [0.5]), 0.9) is None
    sequential = measured("clean_ratio", [0.80, 0.81, 0.82, 0.83], STOPPED)
    assert interval_below(sequential, 0.9) == repeated_interval(sequential.samples)
