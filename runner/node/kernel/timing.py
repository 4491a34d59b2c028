"""When the events of a kernel log were, as seen from now or from the newest line of a captured log. Pure."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.node.kernel.events import KernelEvent
from runner.node.kernel.lines import Clock

RECENT_S = 3600.0
"""An error of a program is history after an hour: its job has ended or was restarted (chosen here)."""
SUSPECT_S = 7 * 86400.0
"""How far back errors of different jobs on one GPU count together (chosen here: a week of jobs)."""
TOGETHER_S = 60.0
"""Events within this time belong together (chosen here: channels of ended programs are removed within a minute)."""
_LINES_TOGETHER = 40


@dataclass(frozen=True)
class Timing:
    """The time of judging.

    Attributes:
        now: on each clock that the log has.
        live: it is this moment; else it is that of the newest line of a log.
    """

    now: Mapping[Clock, float]
    live: bool = True

    def age(self, event: KernelEvent) -> float | None:
        """Seconds since the event; None if its line has no time."""
        if event.clock is None or event.at_s is None or event.clock not in self.now:
            return None
        return max(0.0, self.now[event.clock] - event.at_s)

    def recent(self, event: KernelEvent, seconds: float = RECENT_S) -> bool:
        """Whether it is not older than `seconds`, or of unknown age."""
        age = self.age(event)
        return age is None or age <= seconds

    def newest(self, events: Sequence[KernelEvent]) -> str:
        """`12 min ago`, `12 min before the log ends`; `at an unknown time` if no line has a time."""
        ages = [age for one in events if (age := self.age(one)) is not None]
        if not ages:
            return "at an unknown time"
        return f"{age_words(min(ages))} {'ago' if self.live else 'before the log ends'}"


def close_together(first: KernelEvent, second: KernelEvent) -> bool:
    """Whether two events are close to each other: in time, or in the log where times are unknown."""
    if first.clock is not None and first.clock == second.clock:
        return abs((first.at_s or 0.0) - (second.at_s or 0.0)) <= TOGETHER_S
    return abs(first.order - second.order) <= _LINES_TOGETHER


class Neighbours:
    """Events, to be asked whether one is close to another event; quick for thousands."""

    def __init__(self, events: Iterable[KernelEvent]) -> None:
        """Take the events, in any order."""
        self._timed: dict[Clock, list[float]] = defaultdict(list)
        self._orders: list[int] = []
        for one in events:
            if one.clock is not None and one.at_s is not None:
                self._timed[one.clock].append(one.at_s)
            self._orders.append(one.order)
        for times in self._timed.values():
            times.sort()
        self._orders.sort()

    def near(self, event: KernelEvent, *, before: bool = False) -> bool:
        """Whether one of them is close to the event; with `before`, whether one precedes it closely."""
        if event.clock is not None and event.at_s is not None:
            times, place = self._timed.get(event.clock, []), event.at_s
            return _between(times, place - TOGETHER_S, place if before else place + TOGETHER_S)
        last = event.order if before else event.order + _LINES_TOGETHER
        return _between(self._orders, event.order - _LINES_TOGETHER, last)


def _between(ordered: Sequence[float], first: float, last: float) -> bool:
    place = bisect_left(ordered, first)
    return place < len(ordered) and ordered[place] <= last


def age_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h`, `5 days`."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
