"""Windows of work of each mode in ABBA order, and their tokens, joules and GPU sensors."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import median

from runner.kit.budget import Budget
from runner.kit.interleaved import Rounds, interleaved
from runner.kit.precision.counters import NVML_TICK_S, Counter, EnergyError, Sensors
from runner.kit.precision.energy import TICKS_IN_A_WINDOW, EnergyWindow, run_window
from runner.kit.precision.options import ROUNDS, ROUNDS_WITH_ENERGY, WINDOW_S

WARM_UP_ITERATIONS = 2
# Idle power is measured last. Rounds after the second leave time for it.
_ROUNDS_BEFORE_IDLE = 2
# Clocks and power drop some time after the last work, so the first window is discarded.
_IDLE_WINDOWS = 2
# Chosen for 8b on a GPU: building the model, profiling its GEMMs, and the first compiled forward.
_BUILD_S = 12.0
_IDLE_NAP_S = 0.01


@dataclass
class ModeSamples:
    """The samples of one mode, one per window. Energy includes only the turns in which no window was refused.

    Attributes:
        rate: tokens per second.
        per_joule: tokens per joule, idle power included.
        above_idle: tokens per joule above idle power; empty if idle power is unknown or not below the total.
        watts: mean power.
        clock_hz: median of the SM clock's readings.
        temperature_c: highest reading.
        throttled: share of readings with a throttle reason.
        throttled_by: every reason seen.
    """

    rate: list[float] = field(default_factory=list)
    per_joule: list[float] = field(default_factory=list)
    above_idle: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    clock_hz: list[float] = field(default_factory=list)
    temperature_c: list[float] = field(default_factory=list)
    throttled: list[float] = field(default_factory=list)
    throttled_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Energy:
    """The source of joules: counters and sensors, or the reason why there are none."""

    counters: Sequence[Counter] = ()
    sensors: Callable[[], Sensors] | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Tally:
    """All modes' samples, the windows whose energy was refused, and, if there is no energy, the reason."""

    taken: Mapping[str, ModeSamples]
    refused: Sequence[str]
    no_energy: str | None


@dataclass(frozen=True)
class Windows:
    """The requested windows: seconds each, and rounds of two per mode; None for what the counter needs."""

    seconds: float | None
    rounds: int | None


@dataclass(frozen=True)
class Timed:
    """The windows that were taken.

    Attributes:
        tally: their samples.
        idle: power with nothing running, W; None if unknown.
        no_idle: why it is unknown.
        counters: names of the energy counters.
        window_s: seconds of a window.
        asked, taken: windows of each mode, requested and taken.
    """

    tally: Tally
    idle: float | None
    no_idle: str | None
    counters: Sequence[str]
    window_s: float
    asked: int
    taken: int


def timed(
    work: Mapping[str, Callable[[], object]], tokens: int, energy: Energy, windows: Windows, allowance: Budget
) -> Timed:
    """Take windows of every mode's work, as many as requested and as fit.

    Args:
        work: one iteration of each mode, which synchronizes the device; may be empty.
        tokens: tokens of one iteration.
        energy: the energy source; omitted, with the reason, if the windows that it needs do not fit.
        windows: the requested windows.
        allowance: a round that would not end within it is not begun.
    """
    seconds = windows.seconds
    if seconds is None:
        energy = energy_within(energy, len(work), window_seconds(energy), allowance)
        seconds = window_seconds(energy)
    rounds = windows.rounds or (ROUNDS_WITH_ENERGY if energy.counters else ROUNDS)
    taken = _taken(work, energy, seconds, rounds, allowance)
    idle, no_idle = idle_watts(energy, seconds, allowance)
    return Timed(
        tally(taken, tokens, idle, energy.missing) if work else Tally({}, (), "no mode is timed"),
        idle,
        no_idle,
        sorted({counter.name for counter in energy.counters}),
        seconds,
        2 * rounds if work else 0,
        max(map(len, taken.values()), default=0),
    )


def seconds_after_compiling(modes: int, device: str) -> float:
    """Seconds that a sweep of so many modes needs after compiling; 0 on a CPU.

    On a GPU: to build and check the models, and one round of windows with energy. A compile must leave them.
    """
    return modes * (_BUILD_S + 2 * TICKS_IN_A_WINDOW * NVML_TICK_S) if device == "cuda" else 0.0


def window_seconds(energy: Energy) -> float:
    """Seconds of a window: as many ticks as the slowest counter needs (NVML's: 5 s), and at least 0.2."""
    return max([WINDOW_S, *(TICKS_IN_A_WINDOW * counter.tick_s for counter in energy.counters)])


def energy_within(energy: Energy, modes: int, seconds: float, allowance: Budget) -> Energy:
    """The same energy source, or none with the reason if one round does not fit the remaining time."""
    windows = 2 * modes
    if not energy.counters or allowance.has(windows * seconds):
        return energy
    return Energy(
        missing=f"it needs {windows} windows of {seconds:g} s; {max(0.0, allowance.left):.0f} s are left"
    )


def idle_watts(energy: Energy, seconds: float, allowance: Budget) -> tuple[float | None, str | None]:
    """Power with nothing running, or why it is unknown. The device's memory stays allocated."""
    if not energy.counters:
        return None, energy.missing
    if not allowance.has(_IDLE_WINDOWS * seconds):
        left = max(0.0, allowance.left)
        return None, f"it needs {_IDLE_WINDOWS} windows of {seconds:g} s; {left:.0f} s are left"
    try:
        for _ in range(_IDLE_WINDOWS):
            window = run_window(lambda: time.sleep(_IDLE_NAP_S), seconds, energy.counters, energy.sensors)
        return window.watts(), None
    except EnergyError as error:
        return None, str(error)


def _taken(
    work: Mapping[str, Callable[[], object]], energy: Energy, seconds: float, rounds: int, allowance: Budget
) -> dict[str, list[EnergyWindow]]:
    """Two windows per mode and round, in ABBA order, so that drifts of clock and temperature cancel.

    After the first round, a round that would not end within the allowance is not begun, so there may be fewer.
    """
    for one in work.values():
        for _ in range(WARM_UP_ITERATIONS):
            one()

    def expected(taken: Sequence[float]) -> float:
        later = _IDLE_WINDOWS * seconds if energy.counters and len(taken) >= _ROUNDS_BEFORE_IDLE else 0.0
        return max(taken) + later

    def window(mode: str, _: int) -> EnergyWindow:
        return run_window(work[mode], seconds, energy.counters, energy.sensors)

    arms = {mode: partial(window, mode) for mode in work}
    return interleaved(arms, Rounds(rounds, allowance, expect=expected, passes=2))


def tally(
    windows: Mapping[str, Sequence[EnergyWindow]], tokens: int, idle: float | None, missing: str | None
) -> Tally:
    """Convert windows to samples.

    A turn with one refused window has no energy in any mode, because ratios are taken pair by pair. If more than half
    of the turns are refused, there is no energy at all.

    Args:
        windows: windows of each mode, the same number for all; at least one mode.
        tokens: tokens of one iteration.
        idle: power with nothing running, or None.
        missing: why there was no counter, or None.
    """
    taken = {mode: _without_energy(of_mode, tokens) for mode, of_mode in windows.items()}
    if missing is not None:
        return Tally(taken, (), missing)
    refused: list[str] = []
    turns = len(next(iter(windows.values())))
    for turn in range(turns):
        joules: dict[str, float] = {}
        for mode, of_mode in windows.items():
            try:
                joules[mode] = of_mode[turn].joules_per_iteration()
            except EnergyError as error:
                refused.append(f"{mode}, window {turn + 1}: {error}")
        if len(joules) == len(windows):
            for mode, of_mode in windows.items():
                _add_energy(taken[mode], of_mode[turn], joules[mode], tokens, idle)
    kept = len(next(iter(taken.values())).per_joule)
    if kept < turns / 2:
        why = f"{turns - kept} of {turns} turns had a refused window: {refused[0]}"
        return Tally({m: _without_energy(of, tokens) for m, of in windows.items()}, refused, why)
    for one in taken.values():
        # A missing sample would not be visible in a median.
        one.above_idle = one.above_idle if len(one.above_idle) == kept else []
    return Tally(taken, refused, None)


def _without_energy(windows: Sequence[EnergyWindow], tokens: int) -> ModeSamples:
    found = ModeSamples([one.iterations * tokens / one.seconds for one in windows])
    for window in windows:
        clocks = [one.sm_clock_hz for one in window.sensors if one.sm_clock_hz is not None]
        temperatures = [one.temperature_c for one in window.sensors if one.temperature_c is not None]
        if clocks:
            found.clock_hz.append(median(clocks))
        if temperatures:
            found.temperature_c.append(max(temperatures))
        if window.sensors:
            found.throttled.append(
                sum(bool(one.throttled_by) for one in window.sensors) / len(window.sensors)
            )
    reasons = chain.from_iterable(one.throttled_by for window in windows for one in window.sensors)
    found.throttled_by = tuple(sorted(set(reasons)))
    return found


def _add_energy(
    taken: ModeSamples, window: EnergyWindow, joules: float, tokens: int, idle: float | None
) -> None:
    each_s = window.seconds / window.iterations
    taken.per_joule.append(tokens / joules)
    taken.watts.append(joules / each_s)
    if idle is not None and joules > idle * each_s:
        taken.above_idle.append(tokens / (joules - idle * each_s))
