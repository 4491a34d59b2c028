"""Which nodes are measured with which, and which node that names. Pure.

First pass: disjoint pairs, in rounds, so that each node is measured with two different others. A fast pair clears both
of its nodes. Second pass: each node that no pair cleared is measured with a cleared one. If that pair is slow too, the
node is named: at least three different partners, one of them known to be well, were slow with it, and well without it.
A node that is well is never named if a pair is slow only because of one of its nodes. Pairs can also be slow because
of the way between them (another leaf switch, an oversubscribed uplink): a node with such a way to all of its partners
is named wrongly, so partners of the second pass should be near; see the entry.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

Pair = tuple[int, int]
"""Two nodes, the lower number first."""

_TWO, _THREE = 2, 3
# The pair of this rank from below is the measure: up to two thirds of all pairs may be slow.
_MEASURE = 0.8


def first_pass(nodes: int) -> tuple[tuple[Pair, ...], ...]:
    """Rounds of disjoint pairs: every node in two pairs with different partners, or in three rounds if it is odd.

    With two nodes there is one pair. Rounds of a tournament by the circle method: of an odd number one node rests, a
    different one in each round.
    """
    even = nodes + nodes % 2
    wanted = min(_TWO if nodes % 2 == 0 else _THREE, even - 1)
    rounds = []
    for number in range(wanted):
        circle = [even - 1, *((number + place) % (even - 1) for place in range(even - 1))]
        facing = [(circle[place], circle[-place]) for place in range(1, even // 2)]
        pairs = [(circle[0], circle[even // 2]), *facing] if even > _TWO else [(0, 1)]
        rounds.append(tuple(sorted((min(pair), max(pair)) for pair in pairs if max(pair) < nodes)))
    return tuple(rounds)


def is_slow(bandwidth: float, measure: float, share: float) -> bool:
    """Whether a pair is slow: below this share of the measure."""
    return bandwidth < share * measure


def measure_of(found: Mapping[Pair, float]) -> float:
    """What a pair can do: the bandwidth that a fifth of the pairs reach or exceed."""
    ordered = sorted(found.values())
    return ordered[math.ceil(_MEASURE * (len(ordered) - 1))]


def cleared(found: Mapping[Pair, float], measure: float, share: float) -> frozenset[int]:
    """The nodes with a pair that is not slow."""
    return frozenset(
        node for pair, bandwidth in found.items() if not is_slow(bandwidth, measure, share) for node in pair
    )


def second_pass(found: Mapping[Pair, float], measure: float, share: float) -> tuple[tuple[Pair, ...], ...]:
    """Rounds in which each node that no pair cleared is measured with a cleared one, which it has not met if possible.

    Empty if every node is cleared, or none is.
    """
    good = cleared(found, measure, share)
    waiting = sorted({node for pair in found for node in pair} - good)
    rounds: list[tuple[Pair, ...]] = []
    while waiting and good:
        free, pairs = sorted(good), []
        for node in waiting[: len(good)]:
            # Partners are spread, so that one of them with a bad way does not decide over all.
            turned = free[node % len(free) :] + free[: node % len(free)]
            partner = next(
                (one for one in turned if (min(one, node), max(one, node)) not in found), turned[0]
            )
            free.remove(partner)
            pairs.append((min(partner, node), max(partner, node)))
        rounds.append(tuple(sorted(pairs)))
        waiting = waiting[len(good) :]
    return tuple(rounds)


class PairOutcome(StrEnum):
    """What the search can say.

    `even`: no pair is slow. `named`: nodes are named. `unnamed`: slow pairs, and every node has a fast pair: the way
    between them, or a busy moment. `too_few`: one pair, which has nothing to be compared with. `all_slow`: every pair
    is below what is expected: a common cause, such as the fabric or a setting.
    """

    EVEN = "even"
    NAMED = "named"
    UNNAMED = "unnamed"
    TOO_FEW = "too-few"
    ALL_SLOW = "all-slow"


@dataclass(frozen=True)
class PairVerdict:
    """The verdict on all pairs.

    Attributes:
        outcome: what can be said.
        named: the slow nodes.
        slow: pairs that are slow, and of which no node is named.
        measure: what a pair is compared with, in bytes per second.
    """

    outcome: PairOutcome
    named: tuple[int, ...]
    slow: tuple[Pair, ...]
    measure: float


def judge_pairs(
    first: Mapping[Pair, float],
    second: Mapping[Pair, float],
    share: float,
    expected: float | None = None,
) -> PairVerdict:
    """The verdict on the bandwidths of both passes, in bytes per second.

    Args:
        first: pair → bandwidth, of the first pass.
        second: the same of the second pass.
        share: a pair is slow below this share of what others reach.
        expected: what a pair should reach, if it is known: then a single pair, or all pairs, can be slow too.
    """
    measure = max(measure_of(first), expected or 0.0)
    slow = tuple(sorted(pair for pair, bandwidth in first.items() if is_slow(bandwidth, measure, share)))
    if len(first) == len(slow):
        # With one pair as its own measure, none is slow.
        outcome = PairOutcome.TOO_FEW if len(first) == 1 else PairOutcome.ALL_SLOW
        return PairVerdict(outcome, (), slow, measure)
    if len(first) == 1:
        return PairVerdict(PairOutcome.TOO_FEW if expected is None else PairOutcome.EVEN, (), (), measure)
    good = cleared(first, measure, share)
    named = tuple(
        sorted(
            next(iter(set(pair) - good))
            for pair, bandwidth in second.items()
            if is_slow(bandwidth, measure, share) and len(set(pair) - good) == 1
        )
    )
    left = tuple(pair for pair in slow if not set(pair) & set(named))
    outcome = PairOutcome.NAMED if named else PairOutcome.UNNAMED if slow else PairOutcome.EVEN
    return PairVerdict(outcome, named, left, measure)


def wanted_groups(rounds: Sequence[Sequence[Pair]], ranks: int) -> list[list[list[int]]]:
    """The ranks of each pair, round by round, with this many ranks on each node."""
    return [
        [[rank for node in pair for rank in range(node * ranks, (node + 1) * ranks)] for pair in one]
        for one in rounds
    ]
