"""What of a run fits into the time that it has: which steps are left out. Pure; `runner.pace` keeps the time.

The rules:

* A step is started only if what it is expected to take fits, with a margin; it is ended when its time is over.
* Every entry has its part of the time left. What falls to the later ones is not in it, so a slow entry cannot take
  their time; what an entry does not use goes to the later ones.
* Where not all fits, the steps that earn the outcome of an entry come first (`Tier`), those of every entry before
  the optional ones of any. A step that overruns may take time from steps of less weight, never from others.

Expected times come from records or guesses (`runner.evidence.durations`), corrected by how this machine compares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from runner.entry.model import Phase, Step
from runner.evidence.durations import Expected
from runner.plan import Plan

# More than is expected is planned for, and more still must be free when a step is started: one that is cut short has
# used its time for nothing and leaves its entry incomplete, one that is left out does not.
MARGIN, SURE = 1.2, 1.5
# Free of an entry's time, in seconds, so that the shortest step has time for a slow start.
SPARE_S = 2.0
_ROUNDING_S = 1e-6
# How many seconds of work the belief is worth that this machine is as fast as the records say, and how many one
# step can weigh against it at most: one odd step does not decide.
_WEIGHT_S = 5.0


class Tier(IntEnum):
    """How much an entry's outcome depends on a step: the first come first where not all fits.

    PROOF: the first step that injects the fault, Fix and Verify, and what they need; where nothing is injected,
    Diagnose too, which alone can find the fault then. FAULT: further steps that inject it. DETAIL: other Diagnose.
    """

    PROOF = 0
    FAULT = 1
    DETAIL = 2


@dataclass(frozen=True)
class Work:
    """A step that is to run, as far as its time is concerned.

    Attributes:
        expected: by records or a guess; not corrected for this machine.
        longest_s: its own deadline, in seconds.
        after: ids of steps that it is useless without.
    """

    id: str
    expected: Expected
    longest_s: float
    tier: Tier
    after: frozenset[str] = frozenset()

    def about(self, factor: float) -> float:
        """What it is expected to take on this machine, in seconds."""
        return min(self.longest_s, factor * self.expected.seconds)

    def room(self, factor: float) -> float:
        """What is planned for it, in seconds."""
        return min(self.longest_s, MARGIN * factor * self.expected.seconds)

    def sure(self, factor: float) -> float:
        """What must be free when it is started, in seconds."""
        return min(self.longest_s, SURE * factor * self.expected.seconds + SPARE_S)


def work_of(plan: Plan, expected: Mapping[str, Expected]) -> tuple[Work, ...]:
    """The steps of a plan that run here, in their order."""
    runs: dict[str, Step] = {}
    for planned in plan.steps:
        # What it needs comes before it, and must pass: without that it is skipped whatever time there is.
        if planned.skip is None and all(needed in runs for needed in planned.step.needs):
            runs[planned.step.id] = planned.step
    tiers = _tiers(list(runs.values()))
    fixes = {step.id for step in runs.values() if step.phase is Phase.FIX}
    return tuple(
        Work(
            step.id,
            expected[step.id],
            step.timeout,
            tiers[step.id],
            frozenset(step.needs) | (fixes if step.phase is Phase.VERIFY else frozenset()),
        )
        for step in runs.values()
    )


def _tiers(steps: Sequence[Step]) -> Mapping[str, Tier]:
    injecting = [step.id for step in steps if step.phase is Phase.REPRODUCE]
    tiers = {step.id: Tier.PROOF for step in steps}
    if injecting:
        tiers |= {step.id: Tier.DETAIL for step in steps if step.phase is Phase.DIAGNOSE}
        tiers |= dict.fromkeys(injecting[1:], Tier.FAULT)
    # Backwards: what a step needs comes before it.
    for step in reversed(steps):
        tiers |= {needed: min(tiers[needed], tiers[step.id]) for needed in step.needs}
    return tiers


def correction(compared: Sequence[tuple[float, float]]) -> float:
    """How this machine compares with the records: 2 is half as fast.

    The median of actual over expected duration, (expected, actual) in seconds, each step weighed by its expected
    duration up to `_WEIGHT_S`, and the belief in 1 by that too.
    """
    weighed = sorted(
        [(1.0, _WEIGHT_S)] + [(actual / due, min(due, _WEIGHT_S)) for due, actual in compared if due > 0]
    )
    half, below = sum(weight for _, weight in weighed) / 2, 0.0
    for ratio, weight in weighed:
        below += weight
        if below >= half:
            return ratio
    return weighed[-1][0]


def share_out(left_s: float, entries: Sequence[Sequence[Work]], factor: float) -> tuple[frozenset[str], ...]:
    """Ids of the steps of each entry for which the seconds left are enough, if all entries begin now.

    Tier by tier. Of a tier that does not fit, each entry first gets what fits into its share, which is in proportion
    to what it needs; what no share holds a step for then goes to the entries that lack least.
    """
    free = max(0.0, left_s - SPARE_S)
    chosen: list[set[str]] = [set() for _ in entries]
    for tier in Tier:
        needs = [sum(work.room(factor) for work in works if work.tier is tier) for works in entries]
        total = sum(needs)
        share = 1.0 if total <= free else free / total
        rest = free
        for works, mine, need in zip(entries, chosen, needs, strict=True):
            rest -= _take(works, mine, tier, need * share, factor)
        missing = [
            sum(work.room(factor) for work in works if work.tier is tier and work.id not in mine)
            for works, mine in zip(entries, chosen, strict=True)
        ]
        for number in sorted(range(len(entries)), key=lambda number: missing[number]):
            rest -= _take(entries[number], chosen[number], tier, rest, factor)
        free = max(0.0, rest)
    return tuple(frozenset(ids) for ids in chosen)


def _take(works: Sequence[Work], chosen: set[str], tier: Tier, seconds: float, factor: float) -> float:
    """Choose those steps of a tier, in order of execution, that fit and whose predecessors were chosen; the seconds."""
    ids = {work.id for work in works}
    used = 0.0
    for work in works:
        room = work.room(factor)
        # Sums of the same numbers in another order differ by rounding.
        fits = used + room <= seconds + _ROUNDING_S
        if work.tier is tier and work.id not in chosen and work.after & ids <= chosen and fits:
            chosen.add(work.id)
            used += room
    return used
