"""What the turns of `gpt_large_optimized` took, and how two environments compare. Pure.

Some of what decides a process's speed stays for as long as it lives, where its memory lies above all: of 48 pairs in
one environment on two idle cores a third differed by more than 5 % in prefill, turn after turn, and one by 16 %. Turns
of one process are therefore not samples of its environment, however many: the unit is the start, a process that builds
its model in memory of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, median_low
from typing import Any

from runner.probes.decode.launches import Launches
from runner.probes.decode.run_queue import MOST_WAITED
from runner.sequential import FEWEST, Answer, answer, repeated_interval
from runner.stats import Interval

# Of fewer undisturbed pairs the median says little, and the start counts as disturbed.
FEWEST_UNDISTURBED = 4


@dataclass
class Start:
    """What the turns of one process (or of its ranks: the slowest one's) took, in seconds.

    Attributes:
        first: prefills.
        rest: decoding steps, all turns in a row.
        steps: the median step of each turn.
        waited: for each turn, the share of its prefill and of its steps that threads waited for a core.
    """

    first: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    waited: list[tuple[float, float]] = field(default_factory=list)

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Take in one turn, as each rank answered it."""
        self.first.append(max(answer["first"] for answer in answers))
        rest = [max(step) for step in zip(*(answer["rest"] for answer in answers), strict=True)]
        self.rest += rest
        self.steps.append(median(rest))
        prefill, steps = zip(*(answer["waited"] for answer in answers), strict=True)
        self.waited.append((max(s or 0.0 for s in prefill), max(s or 0.0 for s in steps)))


@dataclass
class Arm:
    """One environment.

    Attributes:
        starts: its processes, one after another.
        threads: CPU threads of a rank.
        peak: bytes of the fullest rank.
        launches: what the steps counted launched, of the rank with the fewest replays.
        counted_steps: how many those were.
    """

    starts: list[Start] = field(default_factory=list)
    threads: int = 0
    peak: int | None = None
    launches: Launches | None = None
    counted_steps: int = 0

    @property
    def first(self) -> list[float]:
        """Prefills of all starts."""
        return [seconds for start in self.starts for seconds in start.first]

    @property
    def rest(self) -> list[float]:
        """Decoding steps of all starts."""
        return [seconds for start in self.starts for seconds in start.rest]

    def samples(self, of: Callable[[Start], Sequence[float]]) -> list[float]:
        """Each start's median; of a single start, all that it took."""
        if len(self.starts) == 1:
            return list(of(self.starts[0]))
        return [median(of(start)) for start in self.starts]


@dataclass(frozen=True)
class Comparison:
    """Speed in the caller's environment over speed in a clean one, a number a start.

    Attributes:
        ratios: of every start, the median of its pairs of turns: the undisturbed ones where there are enough.
        undisturbed: of those starts that have enough.
    """

    ratios: Sequence[float]
    undisturbed: Sequence[float]

    @property
    def used(self) -> Sequence[float]:
        """The undisturbed starts; where they are too few to conclude from, the middle one of all.

        One number has no interval, so that a busy machine says "inconclusive": what disturbs turns need not disturb
        both sides alike (a leftover single thread even wins where a neighbour holds the other core), and many
        disturbed starts would only look sure.
        """
        return self.undisturbed if len(self.undisturbed) >= FEWEST else (median_low(self.ratios),)

    @property
    def interval(self) -> Interval:
        """Where the ratio lies, wherever the starts were stopped."""
        return repeated_interval(self.used)


def calm_pairs(caller: Start, clean: Start) -> dict[str, list[float]]:
    """The pairs of turns in which neither side waited for a core, for `prefill` and for `decode`: clean ÷ caller."""
    return {phase: [ratio for ratio, calm in pairs if calm] for phase, pairs in _pairs(caller, clean).items()}


def compared(caller: Arm, clean: Arm) -> dict[str, Comparison]:
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
        found[phase] = Comparison(
            tuple(ratios),
            tuple(ratio for ratio, use in zip(ratios, enough, strict=True) if use),
        )
    return found


def settled(comparisons: Mapping[str, Comparison], bound: float) -> bool:
    """Whether no further start can matter: one phase is surely slower than the bound, or all surely reach it."""
    answers: list[Answer] = [answer(comparison.interval, bound) for comparison in comparisons.values()]
    return "below" in answers or all(found == "above" for found in answers)


_PHASES: Mapping[str, Callable[[Start], Sequence[float]]] = {
    "prefill": lambda start: start.first,
    "decode": lambda start: start.steps,
}


def _pairs(caller: Start, clean: Start) -> dict[str, list[tuple[float, bool]]]:
    """Each pair's ratio, and whether it was left in peace. Where the kernel does not count, nothing is disturbed."""
    waits = list(zip(clean.waited, caller.waited, strict=True))
    return {
        phase: [
            (ours / theirs, max(a[number], b[number]) <= MOST_WAITED)
            for ours, theirs, (a, b) in zip(of(clean), of(caller), waits, strict=True)
        ]
        for number, (phase, of) in enumerate(_PHASES.items())
    }
