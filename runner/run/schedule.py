"""Decides which steps of a run fit into its time limit and which are left out. Pure; `runner.run.pace` keeps the clock.

The rules:

* A step is started only if its expected duration fits, with a margin; it is terminated when its time is over.
* Every entry has its share of the time left. The shares of later entries are reserved, so a slow entry cannot use
  them; time that an entry does not use goes to the later ones.
* A step that sizes its work by its time leaves all later ones theirs; an entry's headline leaves it only to the steps
  of its own tier.
* If not all steps fit, the steps that decide the outcome of an entry come first (`Tier`), those of every entry before
  the optional ones of any. A step that overruns may take time from steps of a lower tier, never from others.

Expected durations come from records or guesses (`runner.record.durations`), scaled by the speed of this machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from runner.entry.model import Phase, Step
from runner.entry.plan import Plan
from runner.record.durations import Expected

# Factors on the expected duration, for planning and for starting a step. Starting needs more, because a step that is
# terminated has wasted its time and leaves its entry incomplete, while one that is left out does not.
MARGIN, START_MARGIN = 1.2, 1.5
# Added to the time that a step needs to start, in seconds, so that even the shortest step has time for a slow start.
SPARE_S = 2.0
_ROUNDING_S = 1e-6
# Weight, in seconds of work, of the prior that this machine is as fast as the records say, and the largest weight of
# one step against it: one unusual step must not decide.
_WEIGHT_S = 5.0


class Tier(IntEnum):
    """How much an entry's outcome depends on a step; lower tiers come first if not all steps fit.

    PROOF: the first step that injects the fault, Fix and Verify, and the steps they need; if nothing is injected, also
    Diagnose, because only it can find the fault then. FAULT: further steps that inject the fault. DETAIL: other steps
    of Diagnose.
    """

    PROOF = 0
    FAULT = 1
    DETAIL = 2


@dataclass(frozen=True)
class StepWork:
    """The time requirement of a step that is to run.

    Attributes:
        expected: from records or a guess; not scaled for this machine.
        longest_s: its own deadline, in seconds.
        after: ids of steps without which it is useless.
        headline: whether its number represents the entry.
    """

    id: str
    expected: Expected
    longest_s: float
    tier: Tier
    after: frozenset[str] = frozenset()
    headline: bool = False

    def about(self, factor: float) -> float:
        """Its expected duration on this machine, in seconds."""
        return min(self.longest_s, factor * self.expected.seconds)

    def room(self, factor: float) -> float:
        """The time that is planned for it, in seconds."""
        return min(self.longest_s, MARGIN * factor * self.expected.seconds)

    def to_start(self, factor: float) -> float:
        """The time that must be left when it is started, in seconds."""
        return min(self.longest_s, START_MARGIN * factor * self.expected.seconds + SPARE_S)


def step_works(plan: Plan, expected: Mapping[str, Expected]) -> tuple[StepWork, ...]:
    """The time requirements of the steps of a plan that run here, in order."""
    runs: dict[str, Step] = {}
    for planned in plan.steps:
        # The steps it needs come before it and must pass; otherwise it is skipped whatever the time.
        if planned.skip is None and all(needed in runs for needed in planned.step.needs):
            runs[planned.step.id] = planned.step
    tiers = _tiers(list(runs.values()))
    fixes = {step.id for step in runs.values() if step.phase is Phase.FIX}
    return tuple(
        StepWork(
            step.id,
            expected[step.id],
            step.timeout,
            tiers[step.id],
            frozenset(step.needs) | (fixes if step.phase is Phase.VERIFY else frozenset()),
            step.id == plan.runbook.head.headline,
        )
        for step in runs.values()
    )


def _tiers(steps: Sequence[Step]) -> Mapping[str, Tier]:
    injecting = [step.id for step in steps if step.phase is Phase.REPRODUCE]
    tiers = {step.id: Tier.PROOF for step in steps}
    if injecting:
        tiers |= {step.id: Tier.DETAIL for step in steps if step.phase is Phase.DIAGNOSE}
        tiers |= dict.fromkeys(injecting[1:], Tier.FAULT)
    # Backwards, because the steps that a step needs come before it.
    for step in reversed(steps):
        tiers |= {needed: min(tiers[needed], tiers[step.id]) for needed in step.needs}
    return tiers


def correction(compared: Sequence[tuple[float, float]]) -> float:
    """How slow this machine is relative to the records: 2 means half as fast.

    The weighted median of actual ÷ expected duration, from (expected, actual) in seconds. Each step has its expected
    duration, at most `_WEIGHT_S`, as weight; the prior value 1 has the weight `_WEIGHT_S`.
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


def share_out(
    left_s: float, entries: Sequence[Sequence[StepWork]], factor: float
) -> tuple[frozenset[str], ...]:
    """The ids of the steps of each entry that fit into the seconds left, if all entries start now.

    Time is assigned tier by tier. If a tier does not fit, each entry first gets the steps that fit into its share,
    which is proportional to its need. The remainder goes to the entries that lack the least.
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


def _take(works: Sequence[StepWork], chosen: set[str], tier: Tier, seconds: float, factor: float) -> float:
    """Choose, in run order, the steps of a tier that fit and whose predecessors are chosen; return the seconds used."""
    ids = {work.id for work in works}
    used = 0.0
    for work in works:
        room = work.room(factor)
        # Sums of the same numbers in a different order can differ by rounding.
        fits = used + room <= seconds + _ROUNDING_S
        if work.tier is tier and work.id not in chosen and work.after & ids <= chosen and fits:
            chosen.add(work.id)
            used += room
    return used
