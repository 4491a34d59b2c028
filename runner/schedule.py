"""What of a run fits into the time that it has: which steps are left out, and how long each other one may take.

The rules, in this order:

* A step is started only if what it is expected to take fits, with a margin; it is ended when its time is over.
* Every entry has its part of the time left. What falls to the later ones is not in it, so a slow entry cannot take
  their time; what an entry does not use goes to the later ones.
* Where not all fits, the steps that earn the outcome of an entry come first (`Tier`), those of every entry before
  the optional ones of any. A step that overruns may take time from steps of less weight, never from others.

Expected times come from records or guesses (`runner.evidence.durations`), corrected by how this machine compares.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from runner.entry.model import Phase, Step
from runner.evidence.durations import Expected
from runner.evidence.record import StepResult
from runner.plan import Plan
from runner.units import format_duration

# More than is expected is planned for, and more still must be free when a step is started: one that is cut short has
# used its time for nothing and leaves its entry incomplete, one that is left out does not.
MARGIN, SURE = 1.2, 1.5
# Kept back at the end, in seconds: a step that is ended has a grace of 2 s, and the record is written.
CLOSING_S = 3.0
# Free of an entry's time, in seconds, so that the shortest step has time for a slow start.
SPARE_S = 2.0
_ROUNDING_S = 1e-6
# How many seconds of work the belief is worth that this machine is as fast as the records say, and how many one
# step can weigh against it at most: one odd step does not decide.
_WEIGHT_S = 5.0


@dataclass(frozen=True)
class Turn:
    """What becomes of a step whose turn it is.

    Attributes:
        deadline_s: how long it may take, in seconds.
        about_s: how long it is expected to take, in seconds.
        measured: that comes from records; else it is a guess.
        left_out: why it is not started; None where it is.
        cut: the reason to give if this deadline ends it; None where the deadline is the step's own.
    """

    deadline_s: float
    about_s: float
    measured: bool = False
    left_out: str | None = None
    cut: str | None = None


class Pace(Protocol):
    """Who gives the steps of one entry their time."""

    def turn(self, step: Step) -> Turn:
        """The step is next: what becomes of it."""

    def ended(self, result: StepResult) -> None:
        """A step has ended, or was skipped."""


class Unhurried:
    """Every step has its own deadline and none is left out."""

    def turn(self, step: Step) -> Turn:
        """The step's own deadline."""
        return Turn(step.timeout, step.timeout)

    def ended(self, result: StepResult) -> None:
        """Nothing follows from it."""


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


def foreseen(plan: Plan, expected: Mapping[str, Expected], within_s: float | None) -> Mapping[str, Turn]:
    """What becomes of the steps of a single entry, by id, if each takes exactly what is expected of it."""
    works = work_of(plan, expected)
    now = 0.0
    pace = Schedule(within_s, [works], lambda: now).entry(0)
    turns: dict[str, Turn] = {}
    for step in (planned.step for planned in plan.steps):
        if any(work.id == step.id for work in works):
            turn = turns[step.id] = pace.turn(step)
            now += turn.about_s if turn.left_out is None else 0.0
    return turns


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


class Schedule:
    """The time of a whole run, shared between its entries, which run one after the other."""

    def __init__(
        self,
        within_s: float | None,
        entries: Sequence[Sequence[Work]],
        clock: Callable[[], float],
        began: float | None = None,
    ) -> None:
        """Take the steps of all entries, in order.

        Args:
            within_s: seconds after `began` by which the run has ended; None for no such limit.
            entries: what each has to do.
            clock: the time in seconds, such as `time.monotonic`.
            began: when the run began; now when left out.
        """
        self.entries = entries
        self.clock = clock
        self.within_s = math.inf if within_s is None else within_s
        self.ends = (clock() if began is None else began) + self.within_s - CLOSING_S
        self.compared: list[tuple[float, float]] = []

    def entry(self, number: int) -> "EntryPace":
        """The pace of one entry, counted from 0."""
        return EntryPace(self, number)


class EntryPace:
    """The pace of one entry of a schedule."""

    def __init__(self, schedule: Schedule, number: int) -> None:
        self._schedule = schedule
        self._works = {work.id: work for work in schedule.entries[number]}
        self._later = schedule.entries[number + 1 :]
        self._began: float | None = None
        self._left_out: set[str] = set()

    def turn(self, step: Step) -> Turn:
        """The step is next: how long it may take, or why it is left out."""
        schedule, work = self._schedule, self._works[step.id]
        factor, now = correction(schedule.compared), schedule.clock()
        mine = max(0.0, self._ends(now, factor, work.tier) - now)
        ids = list(self._works)
        ahead = [
            one
            for one in (self._works[name] for name in ids[ids.index(step.id) :])
            if one.tier <= work.tier and not one.after & self._left_out
        ]
        (fitting,) = share_out(mine, [ahead], factor)
        # What a step of less weight may not take from those to come.
        first = sum(one.room(factor) for one in ahead if one.id in fitting and one.tier < work.tier)
        about, measured = work.about(factor), work.expected.measured
        if step.id in fitting and mine - first >= work.sure(factor):
            deadline = min(step.timeout, mine - first)
            return Turn(deadline, about, measured, cut=self._cut(deadline, step))
        missing = sorted(work.after & self._left_out)
        self._left_out.add(step.id)
        if missing:
            why = f"left out: it follows {missing[0]}, which was left out"
        else:
            why = self._too_little(about, max(0.0, mine - SPARE_S - first))
        return Turn(0.0, about, measured, left_out=why)

    def _ends(self, now: float, factor: float, tier: Tier) -> float:
        """When the time of this entry's steps of a tier is over: later steps up to it keep what fell to them.

        That is reckoned from when this entry began, by what is known of the machine since: an entry that overruns
        does not get more for it, and one that is quick leaves more to the others.
        """
        self._began = now if self._began is None else self._began
        entries = [list(self._works.values()), *self._later]
        _, *theirs = share_out(self._schedule.ends - self._began, entries, factor)
        kept = (
            work.room(factor)
            for works, ids in zip(self._later, theirs, strict=True)
            for work in works
            if work.id in ids and work.tier <= tier
        )
        return self._schedule.ends - sum(kept)

    def ended(self, result: StepResult) -> None:
        """Compare how long it took with what was expected, where a record said that.

        A step that hung says nothing of the machine's speed: with it, the next ones would be left out for nothing.
        """
        if result.left_out:
            self._left_out.add(result.id)
        work = self._works.get(result.id)
        if work and work.expected.measured and result.status.finished and result.duration_s is not None:
            self._schedule.compared.append((work.expected.seconds, result.duration_s))

    def _too_little(self, about: float, room: float) -> str:
        said = f"left out: about {format_duration(about)} expected, {format_duration(room)} left for it"
        return f"{said} of {format_duration(self._schedule.within_s)}" + (
            ", too close to start it" if about <= room else ""
        )

    def _cut(self, deadline: float, step: Step) -> str | None:
        if deadline >= step.timeout:
            return None
        return (
            f"still running when the {format_duration(deadline)} that were left for it of "
            f"{format_duration(self._schedule.within_s)} had passed, so it was ended; "
            f"its own deadline is {format_duration(step.timeout)}"
        )
