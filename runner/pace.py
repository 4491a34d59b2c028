"""The time of a run as it goes: how long each step may take when its turn comes, or why it is left out.

What fits is reckoned by `runner.schedule`; here is the clock, and what the ended steps have said of this machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.entry.model import Step
from runner.evidence.durations import Expected
from runner.evidence.record import StepResult
from runner.plan import Plan
from runner.schedule import SPARE_S, Tier, Work, correction, share_out, work_of
from runner.units import format_duration

# Kept back at the end, in seconds: a step that is ended has a grace of 2 s, and the record is written.
CLOSING_S = 3.0


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
            why = self._too_little(work, about, max(0.0, mine - SPARE_S - first))
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

    def _too_little(self, work: Work, about: float, room: float) -> str:
        how = "expected" if work.expected.measured else "assumed without a record of it"
        said = f"left out: about {format_duration(about)} {how}, {format_duration(room)} left for it"
        return f"{said} of {format_duration(self._schedule.within_s)}" + (
            ", which leaves no margin" if about <= room else ""
        )

    def _cut(self, deadline: float, step: Step) -> str | None:
        if deadline >= step.timeout:
            return None
        return (
            f"still running when the {format_duration(deadline)} that were left for it of "
            f"{format_duration(self._schedule.within_s)} had passed, so it was ended; "
            f"its own deadline is {format_duration(step.timeout)}"
        )


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
