import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.drill.split import PARTS, RUNS, UNTIMED, Run, parts_needed, slow_in, split_of

STEPS = 30


def run_of(*compute: float, noise: float = 0.0, source: random.Random | None = None) -> Run:
    """Steps of ranks with these seconds of compute, up to so many times as long; who computes less waits longer."""
    source = source or random.Random(0)
    longest = max(compute)
    return [
        [
            {
                "data": 0.001,
                "compute": one * (1 + noise * source.random()),
                "wait": 0.002 + longest - one,
            }
            for _ in range(STEPS + UNTIMED)
        ]
        for one in compute
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_rank_that_is_slow_in_every_run_is_named(ranks: int) -> None:
    seconds = [0.010] * ranks
    seconds[1] = 0.020
    split = split_of([run_of(*seconds, noise=0.2, source=random.Random(turn)) for turn in range(RUNS)])
    assert (split.slow, split.slowest, split.least_waiting) == (1, 1, 1)
    assert split.slowest_over_median > 1.2
    assert 0 < split.compute_share < 1
    assert [len(rank.compute) for rank in split.ranks] == [STEPS * RUNS] * ranks


@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4]), st.floats(0.0, 3.0))
def test_ranks_with_equal_noise_are_all_healthy(seed: int, ranks: int, noise: float) -> None:
    source = random.Random(seed)
    runs = [run_of(*[0.015] * ranks, noise=noise, source=source) for _ in range(RUNS)]
    assert split_of(runs).slow is None


def test_a_rank_that_shares_its_core_for_one_run_is_not_named() -> None:
    """The scheduler of a busy machine can leave two processes on one core for a second or two."""
    shared, even = run_of(0.015, 0.030, noise=0.1), run_of(0.015, 0.015, noise=0.1)
    assert slow_in(shared) == 1
    assert split_of([shared, shared, even]).slow is None
    assert split_of([shared, shared, run_of(0.030, 0.015, noise=0.1)]).slow is None


def test_fewer_runs_than_needed_name_nobody() -> None:
    assert split_of([run_of(0.010, 0.030)] * (RUNS - 1)).slow is None


def test_a_few_long_steps_make_no_slow_rank() -> None:
    """One bad step does not explain a slow job."""
    run = [[dict(step) for step in steps] for steps in run_of(0.010, 0.010, 0.010)]
    for step in run[2][UNTIMED : UNTIMED + STEPS // 2]:
        step["compute"] *= 10
    assert split_of([run] * RUNS).slow is None


def test_a_rank_five_percent_slower_is_within_the_tolerance() -> None:
    assert split_of([run_of(0.0100, 0.0105, 0.0100)] * RUNS).slow is None


def test_two_slow_ranks_of_eight_are_not_reduced_to_one_name_by_their_order() -> None:
    split = split_of([run_of(*[0.010] * 6, 0.030, 0.031)] * RUNS)
    assert split.slow == 7
    assert split.slowest_over_median == pytest.approx(3.1)


def test_the_steps_that_warm_up_are_left_out() -> None:
    run = [[dict(step) for step in steps] for steps in run_of(0.010, 0.010)]
    for step in run[0][:UNTIMED]:
        step["compute"] = 5.0
    assert max(split_of([run]).ranks[0].compute) < 1


@pytest.mark.parametrize("ranks", range(2, 17))
def test_chance_names_one_of_like_ranks_less_than_once_in_five_hundred_runs(ranks: int) -> None:
    needed, share = parts_needed(ranks), 1 / ranks

    def tail(parts: int) -> float:
        return sum(
            math.comb(PARTS, k) * share**k * (1 - share) ** (PARTS - k) for k in range(parts, PARTS + 1)
        )

    assert 0 < needed <= PARTS
    assert ranks * tail(needed) <= 0.002
    assert ranks * tail(needed - 1) > 0.002


def test_ranks_that_cannot_be_compared_are_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        slow_in(run_of(0.01))
    with pytest.raises(ValueError, match="cannot be compared"):
        slow_in([steps[: PARTS + UNTIMED - 1] for steps in run_of(0.01, 0.01)])
