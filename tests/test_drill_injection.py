from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.drill.defaults import FAULTS, HANGS
from runner.kit.drill.injection import Injection, chosen, places_of
from runner.kit.drill.neighbours import layout_of
from runner.kit.probe import NotApplicableError


@given(st.sampled_from(FAULTS), st.integers(0, 10_000), st.integers(2, 16))
def test_a_seed_gives_the_same_fault_again_at_a_place_of_its_step(fault: str, seed: int, ranks: int) -> None:
    one = chosen(fault, seed, ranks)
    assert one == chosen(fault, seed, ranks)
    assert 0 <= one.rank < ranks
    # The flight recorder holds healthy steps before it.
    assert one.step >= 3
    assert one.place in places_of(one.step)
    assert Injection.of_command(one.as_command()) == one


@pytest.mark.parametrize("fault", HANGS)
def test_seeds_that_follow_each_other_differ_in_the_rank_and_reach_every_rank(fault: str) -> None:
    ranks = [chosen(fault, seed, 4).rank for seed in range(8)]
    assert all(one != other for one, other in pairwise(ranks))
    assert set(ranks) == {0, 1, 2, 3}


@pytest.mark.parametrize("fault", ["skip", "op", "stop"])
def test_some_seed_reaches_every_collective(fault: str) -> None:
    assert {chosen(fault, seed, 3).place for seed in range(40)} == set(places_of(0))


def test_another_size_comes_at_a_reduction_only() -> None:
    assert {chosen("shape", seed, 3).place for seed in range(40)} == {"reduce_gradient", "reduce_norm"}


def test_a_rank_is_late_in_its_loader_or_busy_at_any_place() -> None:
    late = [chosen("late", seed, 3) for seed in range(60)]
    assert {one.place for one in late if not one.busy} == {places_of(0)[0]}
    assert {one.place for one in late if one.busy} == set(places_of(0))


@given(st.integers(2, 16), st.integers(0, 15), st.integers(2, 32))
def test_the_culprit_gets_the_smallest_share_of_a_core_whatever_the_machine(
    ranks: int, culprit: int, cores: int
) -> None:
    culprit %= ranks
    layout = layout_of(ranks, culprit, tuple(range(cores)))
    own = layout.cores[culprit]
    assert layout.cores.count(own) == 1
    assert set(layout.cores) <= set(range(cores))
    busiest = max(layout.cores.count(core) for core in layout.cores)
    assert layout.neighbours + 1 >= 3 * busiest


def test_one_core_has_no_room_for_a_neighbour() -> None:
    with pytest.raises(NotApplicableError, match="needs two cores"):
        layout_of(3, 1, (0,))
