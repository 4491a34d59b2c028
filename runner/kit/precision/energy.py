"""Energy of the work in a window, from the hardware's energy counters.

Power samples miss what happens between samples. A counter accumulates, but is updated in ticks (NVML's about every
100 ms). So a thread polls it every few milliseconds, and a window is cut at ticks: joules between the first and the
last tick ÷ work done between these times, with unfinished iterations counted by the share of their time. The remaining
error is the timing of a tick. A window in which the counter stopped, skipped, went back, disappeared or was polled too
slowly is refused.

One reading of NVML's counter can itself take several milliseconds, in a virtual machine for example. The sensors are
read in a thread of their own, because four slow readings would hide a tick.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median

from runner.base.time_limit import answer_within
from runner.kit.precision.counters import Counter, EnergyError, Sensors

TICKS_IN_A_WINDOW = 50
POLL_S = 0.004
# A tick is seen up to one poll late; the largest share of the window that this may cost.
PRECISION = 0.01
_STALL_TICKS, _SHORTEST_STALL_S = 3, 0.1
# The initial value, and two ticks to cut a window at.
_FEWEST_VALUES = 3
# A late tick must carry the joules of the missing ticks; far fewer means that joules were lost.
_LATE_TICKS, _LOST = 1.5, 0.75
_SENSORS_S = 0.25
# Seconds after which a reading that does not return is left behind: a hung driver must not keep the caller.
ANSWER_S = 10.0
_SILENT = "the energy counter does not answer"


@dataclass
class Tick:
    """A value of the counter: joules, and when it was first and last seen, in seconds."""

    joules: float
    first: float
    last: float


@dataclass
class Trace:
    """The observations of one counter. The first value is older than the observation: only changes are ticks."""

    counter: Counter
    ticks: list[Tick] = field(default_factory=list)
    error: str | None = None

    def poll(self, clock: Callable[[], float]) -> None:
        """Read the counter once; after an error it is not read again."""
        if self.error:
            return
        try:
            joules = self.counter.read()
        except EnergyError as error:
            self.error = str(error)
            return
        now = clock()
        if self.ticks and joules < self.ticks[-1].joules:
            self.error = (
                f"the energy counter went back from {self.ticks[-1].joules:.6g} to {joules:.6g} J"
                " (it wrapped, or the driver was reloaded)"
            )
        elif self.ticks and joules == self.ticks[-1].joules:
            self.ticks[-1].last = now
        else:
            self.ticks.append(Tick(joules, now, now))

    def edges(self) -> tuple[Tick, Tick]:
        """The first and the last tick.

        Raises:
            EnergyError: the counter is unreliable.
        """
        if self.error:
            raise EnergyError(self.error)
        watched = self.ticks[-1].last - self.ticks[0].first if self.ticks else 0.0
        tick_s = self.counter.tick_s
        if watched < TICKS_IN_A_WINDOW * tick_s * (1 - PRECISION):
            raise EnergyError(
                f"a window of {watched:.2g} s is too short for a counter with updates every {tick_s:g} s;"
                f" use --window {TICKS_IN_A_WINDOW * tick_s:g} or more"
            )
        still = max(tick.last - tick.first for tick in self.ticks)
        if still > max(_STALL_TICKS * tick_s, _SHORTEST_STALL_S):
            raise EnergyError(f"the energy counter did not change for {still:.3g} of {watched:.3g} s of work")
        if len(self.ticks) < _FEWEST_VALUES:
            raise EnergyError(
                f"the energy counter changed {len(self.ticks) - 1} times in {watched:.3g} s of work"
            )
        self._check_for_loss()
        first, last = self.ticks[1], self.ticks[-1]
        # The value is at most one tick old, however late it was read.
        edges = (self.ticks[0:2], self.ticks[-2:])
        unsure = max(min(here.first - before.last, tick_s) for before, here in edges)
        if unsure > PRECISION * (last.first - first.first):
            raise EnergyError(
                f"the energy counter could be read only every {unsure:.2g} s: the host is too busy"
            )
        return first, last

    def _check_for_loss(self) -> None:
        steps = list(pairwise(self.ticks[1:]))
        usual = median((after.joules - tick.joules) / (after.first - tick.first) for tick, after in steps)
        late = max(_LATE_TICKS * self.counter.tick_s, _SHORTEST_STALL_S)
        for tick, after in steps:
            still, moved = tick.last - tick.first, after.joules - tick.joules
            if still > late and moved < _LOST * usual * still:
                raise EnergyError(
                    f"the energy counter lost joules: it did not change for {still:.2g} s and then rose by"
                    f" {moved:.3g} J, at {usual:.3g} W"
                )


@dataclass(frozen=True)
class EnergyWindow:
    """Repeated work over a period of time.

    Attributes:
        began: start, in seconds of the window's clock.
        ends: end of each iteration.
        traces: one per counter.
        sensors: readings during the window.
    """

    began: float
    ends: tuple[float, ...]
    traces: tuple[Trace, ...] = ()
    sensors: tuple[Sensors, ...] = ()

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.began

    @property
    def iterations(self) -> int:
        return len(self.ends)

    def done_at(self, moment: float) -> float:
        """Iterations done at a time; the current one counts by the elapsed share of its time."""
        whole = bisect_right(self.ends, moment)
        if whole == len(self.ends):
            return float(whole)
        start = self.ends[whole - 1] if whole else self.began
        return whole + max(0.0, moment - start) / (self.ends[whole] - start)

    def joules_per_iteration(self) -> float:
        """Joules of one iteration, summed over the counters.

        Raises:
            EnergyError: no counter, or one that cannot be believed.
        """
        if not self.traces:
            raise EnergyError("no energy counter was watched")
        total = 0.0
        for trace in self.traces:
            first, last = trace.edges()
            total += (last.joules - first.joules) / (self.done_at(last.first) - self.done_at(first.first))
        return total

    def watts(self) -> float:
        """Mean power, summed over the counters. Raises EnergyError as `joules_per_iteration` does."""
        return self.joules_per_iteration() * self.iterations / self.seconds


def run_window(
    work: Callable[[], object],
    seconds: float,
    counters: Sequence[Counter] = (),
    sensors: Callable[[], Sensors] | None = None,
) -> EnergyWindow:
    """Repeat `work` (which synchronizes the device) for at least that long, and at least twice."""
    clock = time.perf_counter
    traces = tuple(Trace(counter) for counter in counters)
    readings: list[Sensors] = []
    over = threading.Event()
    watchers = []
    if traces:
        _first_values(traces, clock)
        polling = (traces, over.wait, clock)
        watchers.append(threading.Thread(target=poll_counters, args=polling, name="energy", daemon=True))
        if sensors is not None:
            reading = (sensors, readings, over.wait)
            watchers.append(threading.Thread(target=_sense, args=reading, name="sensors", daemon=True))
    for watcher in watchers:
        watcher.start()
    began, ends = clock(), list[float]()
    try:
        while len(ends) < 2 or ends[-1] - began < seconds:  # noqa: PLR2004 - one iteration has no spread
            work()
            ends.append(clock())
    finally:
        over.set()
        for watcher in watchers:
            watcher.join(ANSWER_S)
    if watchers and watchers[0].is_alive():
        for trace in traces:
            trace.error = trace.error or _SILENT
    return EnergyWindow(began, tuple(ends), traces, tuple(readings))


def _first_values(traces: Sequence[Trace], clock: Callable[[], float]) -> None:
    for trace in traces:
        try:
            answer_within(ANSWER_S, partial(trace.poll, clock))
        except TimeoutError:
            trace.error = _SILENT


def poll_counters(traces: Sequence[Trace], over: Callable[[float], bool], clock: Callable[[], float]) -> None:
    """Poll the counters until `over`, which waits that many seconds and tells whether the window has ended."""
    while not over(POLL_S):
        for trace in traces:
            trace.poll(clock)


def _sense(sensors: Callable[[], Sensors], readings: list[Sensors], over: Callable[[float], bool]) -> None:
    wait_s = POLL_S
    while not over(wait_s):
        readings.append(sensors())
        wait_s = _SENSORS_S
