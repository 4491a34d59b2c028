"""Times of the turns of `gpt_large_optimized`, and the comparison of two environments. Pure.

Some conditions (memory placement above all) are fixed when a process starts: of 48 pairs in one environment on two idle
cores, a third differed by more than 5 % in prefill, turn after turn, and one by 16 %. Turns of one process are
therefore not independent samples of its environment. The unit is the start: a process that builds its model in its own
memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, median_low
from typing import Any

from runner.base.sequential import FEWEST, repeated_interval
from runner.base.stats import Interval
from runner.kit.decode.run_queue import MOST_WAITED
from runner.kit.interleaved import paired_ratios
from runner.kit.profiling import Launches

# With fewer undisturbed pairs, the median is unreliable, and the start counts as disturbed.
FEWEST_UNDISTURBED = 4


@dataclass
class DecodeStart:
    """Times of the turns of one process (for ranks: of the slowest rank), in seconds.

    Attributes:
        first: prefills.
        rest: decoding steps of all turns.
        steps: the median step of each turn.
        waited: for each turn, the share of time that threads waited for a core, in its prefill and in its steps.
    """

    first: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    waited: list[tuple[float, float]] = field(default_factory=list)

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Add one turn, as reported by each rank."""
        self.first.append(max(answer["first"] for answer in answers))
        rest = [max(step) for step in zip(*(answer["rest"] for answer in answers), strict=True)]
        self.rest += rest
        self.steps.append(median(rest))
        prefill, steps = zip(*(answer["waited"] for answer in answers), strict=True)
        self.waited.append((max(s or 0.0 for s in prefill), max(s or 0.0 for s in steps)))


@dataclass
class DecodeArm:
    """One environment.

    Attributes:
        starts: its processes, one after another.
        threads: CPU threads of a rank.
        peak: peak bytes of the rank with the most.
        launches: launches of the counted steps, on the rank with the fewest replays.
        counted_steps: number of counted steps.
        stuck: whether the process of its first start did not answer from within the profiler.
        cache: of a compiled step, the graphs found in the compile cache (`hits`) and compiled (`misses`); else empty.
    """

    starts: list[DecodeStart] = field(default_factory=list)
    threads: int = 0
    peak: int | None = None
    launches: Launches | None = None
    counted_steps: int = 0
    stuck: bool = False
    cache: Mapping[str, int] = field(default_factory=dict)

    @property
    def first(self) -> list[float]:
        """Prefills of all starts."""
        return [seconds for start in self.starts for seconds in start.first]

    @property
    def rest(self) -> list[float]:
        """Decoding steps of all starts."""
        return [seconds for start in self.starts for seconds in start.rest]

    def samples(self, of: Callable[[DecodeStart], Sequence[float]]) -> list[float]:
        """The median of each start; for a single start, all its samples."""
        if len(self.starts) == 1:
            return list(of(self.starts[0]))
        return [median(of(start)) for start in self.starts]


@dataclass(frozen=True)
class SpeedComparison:
    """Speed in the caller's environment ÷ speed in a clean one, one ratio per start.

    Attributes:
        ratios: for every start, the median of its pairs of turns; only the undisturbed pairs if there are enough.
        undisturbed: ratios of the starts with enough undisturbed pairs.
    """

    ratios: Sequence[float]
    undisturbed: Sequence[float]

    @property
    def used(self) -> Sequence[float]:
        """The ratios of the undisturbed starts; if there are too few, only the median of all.

        One number has no interval, so a busy machine gives "inconclusive". Disturbance need not affect both sides
        equally (a leftover single thread even gains if another process uses the other core), so an interval over many
        disturbed starts would be misleading.
        """
        return self.undisturbed if len(self.undisturbed) >= FEWEST else (median_low(self.ratios),)

    @property
    def interval(self) -> Interval:
        """Confidence interval of the ratio, valid at any stopping time."""
        return repeated_interval(self.used)


def undisturbed_pairs(caller: DecodeStart, clean: DecodeStart) -> dict[str, list[float]]:
    """Ratios clean ÷ caller of the pairs of turns in which neither side waited for a core, by phase."""
    return {phase: [ratio for ratio, calm in pairs if calm] for phase, pairs in _pairs(caller, clean).items()}


def compared(caller: DecodeArm, clean: DecodeArm) -> dict[str, SpeedComparison]:
    """The comparisons of `prefill` and of `decode`."""
    found = {}
    by_start = [_pairs(ours, theirs) for ours, theirs in zip(caller.starts, clean.starts, strict=True)]
    for phase in _PHASES:
        calm = [[ratio for ratio, kept in pairs[phase] if kept] for pairs in by_start]
        enough = [len(ratios) >= FEWEST_UNDISTURBED for ratios in calm]
        ratios = [
            median(kept if use else [ratio for ratio, _ in pairs[phase]])
            for kept, use, pairs in zip(calm, enough, by_start, strict=True)
        ]
        found[phase] = SpeedComparison(
            tuple(ratios), tuple(ratio for ratio, use in zip(ratios, enough, strict=True) if use)
        )
    return found


def comparisons_of(arms: Mapping[str, DecodeArm]) -> dict[str, SpeedComparison]:
    """The comparisons of the environments `caller` and `clean`; empty without both."""
    return compared(arms["caller"], arms["clean"]) if "clean" in arms else {}


def intervals(comparisons: Mapping[str, SpeedComparison]) -> list[Interval]:
    """The interval of each phase's ratio."""
    return [comparison.interval for comparison in comparisons.values()]


_PHASES: Mapping[str, Callable[[DecodeStart], Sequence[float]]] = {
    "prefill": lambda start: start.first,
    "decode": lambda start: start.steps,
}


def _pairs(caller: DecodeStart, clean: DecodeStart) -> dict[str, list[tuple[float, bool]]]:
    """Each pair's ratio, and whether it was undisturbed. If the kernel has no counter, all pairs are undisturbed."""
    waits = list(zip(clean.waited, caller.waited, strict=True))
    return {
        phase: [
            (ratio, max(a[number], b[number]) <= MOST_WAITED)
            for ratio, (a, b) in zip(paired_ratios(of(clean), of(caller)), waits, strict=True)
        ]
        for number, (phase, of) in enumerate(_PHASES.items())
    }
