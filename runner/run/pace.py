"""The time budget during a run: how long the next step may take, or why it is left out.

`runner.run.schedule` computes what fits. This module keeps the clock and learns from finished steps how fast this
machine is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.base.units import format_duration
from runner.entry.model import Step
from runner.entry.plan import Plan
from runner.record.durations import Expected
from runner.record.model import StepResult
from runner.run.schedule import SPARE_S, StepWork, Tier, correction, share_out, step_works

# Reserved at the end, in seconds: a terminated step has a grace of 2 s, and the record must be written.
CLOSING_S = 3.0


@dataclass(frozen=True)
class TimeSlot:
    """The decision about the step that is next.

    Attributes:
        deadline_s: how long it may take, in seconds.
        about_s: how long it is expected to take, in seconds.
        measured: whether `about_s` comes from records; else it is a guess.
        left_out: why it is not started; None if it is started.
        cut: the reason to record if this deadline ends it; None if the deadline is the step's own.
        share_s: seconds by which the step may size its work; the deadline if None. It is shorter than the deadline
            where later steps of the entry count on the time: a step that takes all that it is given would leave none.
    """

    deadline_s: float
    about_s: float
    measured: bool = False
    left_out: str | None = None
    cut: str | None = None
    share_s: float | None = None

    @property
    def work_s(self) -> float:
        """Seconds by which the step may size its work."""
        return self.deadline_s if self.share_s is None else self.share_s


class Pace(Protocol):
    """Decides how long each step of one entry may take."""

    def slot(self, step: Step) -> TimeSlot:
        """Decide about the step that is next."""

    def ended(self, result: StepResult) -> None:
        """A step has ended, or was skipped."""


class NoTimeLimit:
    """No time limit: every step has its own deadline and none is left out."""

    def slot(self, step: Step) -> TimeSlot:
        """The step's own deadline."""
        return TimeSlot(step.timeout, step.timeout)

    def ended(self, result: StepResult) -> None:
        """Ignored."""


class Schedule:
    """The time budget of a whole run, shared between its entries, which run one after the other."""

    def __init__(
        self,
        within_s: float | None,
        entries: Sequence[Sequence[StepWork]],
        clock: Callable[[], float],
        began: float | None = None,
    ) -> None:
        """Take the work of all entries, in order.

        Args:
            within_s: the run must end within this many seconds after `began`; None for no limit.
            entries: the work of each entry.
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

    def slot(self, step: Step) -> TimeSlot:
        """Decide how long the next step may take, or why it is left out."""
        schedule, work = self._schedule, self._works[step.id]
        factor = correction(schedule.compared)
        about, measured = work.about(factor), work.expected.measured
        if math.isinf(schedule.within_s):
            return TimeSlot(step.timeout, about, measured)
        now = schedule.clock()
        mine = max(0.0, self._ends(now, factor, work.tier) - now)
        ids = list(self._works)
        ahead = [
            one
            for one in (self._works[name] for name in ids[ids.index(step.id) :])
            if one.tier <= work.tier and not one.after & self._left_out
        ]
        (fitting,) = share_out(mine, [ahead], factor)
        # Time that a step of a lower tier must leave to later ones.
        first = sum(one.room(factor) for one in ahead if one.id in fitting and one.tier < work.tier)
        if step.id in fitting and mine - first >= work.to_start(factor):
            deadline = min(step.timeout, mine - first)
            # The number that represents the entry may take time that optional steps could have used.
            least = work.tier if work.headline else max(Tier)
            free = self._free(now, factor, ids[ids.index(step.id) + 1 :], least)
            share = min(deadline, max(work.room(factor), free))
            return TimeSlot(deadline, about, measured, cut=self._cut(deadline, step), share_s=share)
        missing = sorted(work.after & self._left_out)
        self._left_out.add(step.id)
        if missing:
            why = f"left out: it follows {missing[0]}, which was left out"
        else:
            why = self._too_little(work, about, max(0.0, mine - SPARE_S - first))
        return TimeSlot(0.0, about, measured, left_out=why)

    def _free(self, now: float, factor: float, later: Sequence[str], least: Tier) -> float:
        """Seconds of this entry's time that these later steps do not need, as far as they fit, down to a tier."""
        left = self._ends(now, factor, least) - now
        steps = [
            work
            for work in map(self._works.__getitem__, later)
            if work.tier <= least and not work.after & self._left_out
        ]
        (fitting,) = share_out(max(0.0, left), [steps], factor)
        return left - sum(work.to_start(factor) for work in steps if work.id in fitting)

    def _ends(self, now: float, factor: float, tier: Tier) -> float:
        """When the time of this entry's steps of a tier ends: later steps up to that tier keep their share.

        It is computed from the start of this entry with the current speed estimate of the machine: an entry that
        overruns gets no extra time, and a fast one leaves more to the others.
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
        """Compare the step's duration with the expected one, if that came from a record.

        A step that hung says nothing about the machine's speed: counting it would leave out later steps needlessly.
        """
        if result.left_out:
            self._left_out.add(result.id)
        work = self._works.get(result.id)
        if work and work.expected.measured and result.status.finished and result.duration_s is not None:
            self._schedule.compared.append((work.expected.seconds, result.duration_s))

    def _too_little(self, work: StepWork, about: float, room: float) -> str:
        how = "expected" if work.expected.measured else "no record, assumed"
        left = f"{format_duration(room)} left of {format_duration(self._schedule.within_s)}"
        return f"left out: {how} {format_duration(about)}, {left}" + (
            ", which leaves no margin" if about <= room else ""
        )

    def _cut(self, deadline: float, step: Step) -> str | None:
        if deadline >= step.timeout:
            return None
        return (
            f"ended after {format_duration(deadline)}, all that was left of "
            f"{format_duration(self._schedule.within_s)}; "
            f"its own deadline is {format_duration(step.timeout)}"
        )


def foreseen(
    plans: Sequence[Plan], expected: Sequence[Mapping[str, Expected]], within_s: float | None
) -> tuple[Mapping[str, TimeSlot], ...]:
    """The decisions about the steps of each entry, by id, if each takes exactly its expected time.

    Args:
        plans: of entries that run one after the other.
        expected: of each plan, by step id.
        within_s: seconds for all of them together; None for no limit.
    """
    works = [step_works(*one) for one in zip(plans, expected, strict=True)]
    now = 0.0
    schedule = Schedule(within_s, works, lambda: now)
    found: list[Mapping[str, TimeSlot]] = []
    for number, plan in enumerate(plans):
        pace, planned_ids = schedule.entry(number), {work.id for work in works[number]}
        slots: dict[str, TimeSlot] = {}
        for step in (planned.step for planned in plan.steps if planned.step.id in planned_ids):
            slot = slots[step.id] = pace.slot(step)
            now += slot.about_s if slot.left_out is None else 0.0
        found.append(slots)
    return tuple(found)
