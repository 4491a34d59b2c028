"""What the steps of each rank were spent on, and which rank is steadily slower than the others. Pure.

A busy machine slows now one rank and now another, for a second or so at a time. So a rank is called slow only if it is
slower than the others by more than a tenth in more parts of a run than chance allows, and in several runs. The tenth is
the bound of Lin et al., "Understanding Stragglers in Large Model Training Using What-if Analysis" (2025).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, pairwise
from statistics import median

from runner.base.stats import median_interval

SLOW = 1.1
"""A slow rank's compute ÷ the median of the others is more than this."""

RUNS, PARTS = 3, 10
"""A slow rank must be slow in all of these runs, in most of the parts of each."""

# Probability that any rank is called slow although all are alike.
_FALSE_NAMES = 0.002
UNTIMED = 2
"""Steps at the begin of a run that are not counted."""

Run = Sequence[Sequence[Mapping[str, float]]]
"""Seconds of `data`, `compute` and `wait`, by rank and step."""


@dataclass(frozen=True)
class RankSplit:
    """One rank: seconds of each step.

    Attributes:
        compute: of its own work.
        wait: in collectives.
        data: in the loader.
    """

    data: tuple[float, ...]
    compute: tuple[float, ...]
    wait: tuple[float, ...]


@dataclass(frozen=True)
class StepSplit:
    """The comparison of ranks.

    Attributes:
        ranks: in order of rank, with the steps of all runs.
        slowest: the rank with the largest median of compute.
        slowest_over_median: its median of compute ÷ the median of all ranks' medians.
        compute_share: median over ranks and steps of compute ÷ (data + compute + wait).
        least_waiting: the rank with the smallest median of wait.
        slow: the rank that is slow in every run; None if none is.
    """

    ranks: tuple[RankSplit, ...]
    slowest: int
    slowest_over_median: float
    compute_share: float
    least_waiting: int
    slow: int | None


def split_of(runs: Sequence[Run]) -> StepSplit:
    """Compare the ranks.

    Args:
        runs: up to `RUNS` runs; with fewer, no rank is called slow.

    Raises:
        ValueError: no run, one rank, or fewer steps than parts.
    """
    by_run = [_ranks_of(run) for run in runs]
    ranks = tuple(
        RankSplit(
            *(
                tuple(chain.from_iterable(parts))
                for parts in zip(*(astuple(one) for one in same), strict=True)
            )
        )
        for same in zip(*by_run, strict=True)
    )
    medians = [median(rank.compute) for rank in ranks]
    waits = [median(rank.wait) for rank in ranks]
    slow = {slow_in(run) for run in runs}
    return StepSplit(
        ranks=ranks,
        slowest=max(range(len(ranks)), key=medians.__getitem__),
        slowest_over_median=max(medians) / median(medians),
        compute_share=median(_shares(ranks)),
        least_waiting=min(range(len(ranks)), key=waits.__getitem__),
        slow=slow.pop() if len(slow) == 1 and len(runs) >= RUNS else None,
    )


def slow_in(run: Run) -> int | None:
    """The rank that is slow in this run: in enough of its parts, and by its median over the steps.

    Raises:
        ValueError: one rank, or fewer steps than parts.
    """
    ranks = _ranks_of(run)
    count = min((len(rank.compute) for rank in ranks), default=0)
    if len(ranks) < 2 or count < PARTS:  # noqa: PLR2004 - one rank has nothing to be compared with
        raise ValueError(f"{len(ranks)} ranks of {count} steps cannot be compared")
    slowest = max(range(len(ranks)), key=lambda rank: median(ranks[rank].compute))
    own = ranks[slowest].compute
    others = [rank.compute for number, rank in enumerate(ranks) if number != slowest]
    interval = median_interval([own[step] / median(other[step] for other in others) for step in range(count)])
    parts = sum(
        median(own[low:high]) > SLOW * median(median(other[low:high]) for other in others)
        for low, high in _parts(count)
    )
    steady = parts >= parts_needed(len(ranks)) and interval is not None and interval.low > SLOW
    return slowest if steady else None


def _ranks_of(run: Run) -> list[RankSplit]:
    return [
        RankSplit(*(tuple(step[name] for step in steps[UNTIMED:]) for name in ("data", "compute", "wait")))
        for steps in run
    ]


def parts_needed(ranks: int) -> int:
    """In how many parts a rank must be slow, so that chance names any of so many like ranks less than 1 time in 500."""
    share = 1 / ranks
    tail = 0.0
    for parts in range(PARTS, 0, -1):
        tail += math.comb(PARTS, parts) * share**parts * (1 - share) ** (PARTS - parts)
        if ranks * tail > _FALSE_NAMES:
            return parts + 1
    return 1


def _parts(count: int) -> list[tuple[int, int]]:
    edges = [round(count * part / PARTS) for part in range(PARTS + 1)]
    return list(pairwise(edges))


def _shares(ranks: Sequence[RankSplit]) -> list[float]:
    return [
        compute / (data + compute + wait)
        for rank in ranks
        for data, compute, wait in zip(rank.data, rank.compute, rank.wait, strict=True)
    ]
