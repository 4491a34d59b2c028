"""Interleaved samples: each round samples every arm, in alternating order, so that drift cancels.

    taken = interleaved({"caller": caller, "clean": clean}, Rounds(20, budget(15), fewest=5))
    ratio = measured("environment_ratio", paired_ratios(taken["clean"], taken["caller"]))

An arm is a function that takes the number of the round and returns a sample. For a single series, give one arm. To stop
as soon as the ratios answer a question, give `Rounds` an `enough` that asks `decided` about their
`runner.base.sequential.repeated_interval`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runner.base.sequential import answer
from runner.base.stats import Interval
from runner.kit.budget import Budget
from runner.record.evaluation import interval_of
from runner.record.model import Measurement

Sample = TypeVar("Sample")


def no_time(seconds: Sequence[float]) -> float:
    """Expect that a round takes no time: rounds end only when the time is already over."""
    del seconds
    return 0.0


@dataclass(frozen=True)
class Rounds:
    """The rounds to take.

    Attributes:
        most: maximum number of rounds.
        within: after `fewest` rounds, a round that is not expected to end within this time is not begun.
        fewest: rounds that do not depend on `within`.
        expect: seconds that the next round is expected to take, from those of all rounds before it.
        enough: whether the rounds so far are enough, from their number; then no further one is begun.
        late: called with the number of rounds taken if the time ended them.
        first: number that alternation starts from: with an odd one, the first round is in reversed order.
        passes: samples of each arm in a round; with two, a round is in ABBA order.
    """

    most: int
    within: Budget
    fewest: int = 1
    expect: Callable[[Sequence[float]], float] = max
    enough: Callable[[int], bool] = lambda _: False
    late: Callable[[int], object] = lambda _: None
    first: int = 0
    passes: int = 1

    def __iter__(self) -> Iterator[int]:
        """The number of each round, from 0; a round lasts until the next is asked for."""
        seconds: list[float] = []
        while (number := len(seconds)) < self.most and not self.enough(number):
            if number >= self.fewest and not self.within.has(self.expect(seconds)):
                self.late(number)
                return
            began = time.monotonic()
            yield number
            seconds.append(time.monotonic() - began)


def interleaved(arms: Mapping[str, Callable[[int], Sample]], rounds: Rounds) -> dict[str, list[Sample]]:
    """The samples of each arm, in the order in which they were taken."""
    samples: dict[str, list[Sample]] = {name: [] for name in arms}
    for number in rounds:
        for turn in range(rounds.passes * number, rounds.passes * (number + 1)):
            for name in alternated(arms, rounds.first + turn):
                samples[name].append(arms[name](number))
    return samples


def interval_below(ratio: Measurement, bound: float) -> Interval | None:
    """The 95 % interval of a measured ratio if all of it is below the bound; else None."""
    interval = interval_of(ratio)
    return interval if interval is not None and interval.high < bound else None


def alternated(names: Iterable[str], number: int) -> list[str]:
    """The names in their order for an even number, reversed for an odd one: no arm is always first."""
    return list(names)[:: -1 if number % 2 else 1]


def paired_ratios(over: Iterable[float | None], under: Iterable[float | None]) -> list[float]:
    """`over` ÷ `under`, round by round, without the rounds in which one of them is missing (None).

    Raises:
        ValueError: one has more rounds than the other.
    """
    pairs = zip(over, under, strict=True)
    return [one / other for one, other in pairs if one is not None and other is not None]


def decided(intervals: Iterable[Interval], bound: float) -> bool:
    """Whether further samples cannot matter: one 95 % interval is below the bound, or all are above it."""
    answers = [answer(interval, bound) for interval in intervals]
    return "below" in answers or all(found == "above" for found in answers)
