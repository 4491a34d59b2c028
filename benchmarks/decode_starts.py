"""Whether starts that share a launch are as good as starts launched apart: the unit of entry 3's comparison.

    python benchmarks/decode_starts.py [LAUNCHES] [STARTS]

On a CPU a start is forked from a process that has imported everything, so that it costs a second less. It has memory of
its own, but shares with its launch where libraries lie. If that mattered to speed, the ratios of one launch would lie
closer to each other than to another launch's, and starts would not be samples of their own. Here one environment is
compared with itself, over several launches with several starts each. Printed for each phase: the spread from start to
start, and how often chance alone, the starts dealt to launches anew, sets the launches further apart. A share of a few
percent or less says that a launch matters. To be run on an idle machine.
"""

import math
import os
import random
import sys
import time
from collections.abc import Sequence
from statistics import fmean, stdev, variance

from runner.base.units import format_value
from runner.kit.budget import Budget
from runner.kit.compile_options import Mode
from runner.kit.decode.arms import compared
from runner.kit.decode.job import DecodeJob
from runner.kit.decode.turns import RequestedStarts, take_starts
from runner.sizing.models import model_shape

LAUNCHES, STARTS, TURNS = 8, 8, 4
SHUFFLES = 2000
HANG_S = 3600.0


def between(groups: Sequence[Sequence[float]]) -> float:
    """How far apart the launches are: the variance of their means."""
    return variance(fmean(group) for group in groups)


def by_chance(groups: Sequence[Sequence[float]]) -> float:
    """The share of random dealings in which the launches are at least as far apart."""
    source, pool, size = random.Random(0), [one for group in groups for one in group], len(groups[0])
    seen, reached = between(groups), 0
    for _ in range(SHUFFLES):
        source.shuffle(pool)
        reached += between([pool[at : at + size] for at in range(0, len(pool), size)]) >= seen
    return reached / SHUFFLES


def main() -> None:
    """Take the launches, and print what they say."""
    given = [int(word) for word in sys.argv[1:]]
    launches, starts = [*given, *(LAUNCHES, STARTS)[len(given) :]]
    job = DecodeJob("tiny", model_shape("tiny"), None, "cpu", 1, 1, 128, 4)
    logs: dict[str, list[list[float]]] = {"prefill": [], "decode": []}
    undisturbed, seconds = 0, []
    for _ in range(launches):
        began = time.monotonic()
        # No ratio decides against no number: every start is taken.
        series = RequestedStarts(starts, TURNS, Budget(began + HANG_S), began + HANG_S, math.nan)
        arms = take_starts(job, Mode.EAGER, {"caller": os.environ, "clean": os.environ}, series).arms
        seconds.append(time.monotonic() - began)
        for phase, found in compared(arms["caller"], arms["clean"]).items():
            logs[phase].append([math.log(ratio) for ratio in found.ratios])
            undisturbed += len(found.undisturbed)
    print(f"{launches} launches of {starts} starts, {format_value(fmean(seconds), 's')} each")
    print(f"undisturbed: {undisturbed} of {2 * launches * starts} ratios")
    for phase, groups in logs.items():
        spread = math.sqrt(fmean(variance(group) for group in groups))
        print(
            f"{phase}: {spread:.1%} from start to start within a launch, {stdev(map(fmean, groups)):.1%} between"
            f" launches ({spread / math.sqrt(starts):.1%} expected); by chance in {by_chance(groups):.0%}"
        )


if __name__ == "__main__":
    main()
