"""Joules, from counters that add them up in hardware. Sampled watts miss most of what happens between samples.

A counter moves in ticks (NVML's about every 100 ms), so a window is cut at its ticks: tokens are counted between the
first and the last tick seen, and joules between the same two. A window shorter than 50 ticks is refused.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

NVML_TICK_S = 0.1
RAPL_TICK_S = 0.001
TICKS_IN_A_WINDOW = 50
RAPL = Path("/sys/class/powercap")


class EnergyError(Exception):
    """The counter is gone or cannot be believed; the message says how."""


class Counter(Protocol):
    """Joules since some beginning; never goes back."""

    name: str
    tick_s: float

    def read(self) -> float:
        """Joules. Raises EnergyError."""


class NvmlCounter:
    """The total-energy counter of one GPU (Volta and later), in millijoules since the driver was loaded."""

    name, tick_s = "NVML total energy", NVML_TICK_S

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise EnergyError(f"NVML's energy counter is gone: {error}") from error


class RaplCounter:
    """The package domains of Intel's and AMD's RAPL, in microjoules; each wraps at its own range."""

    name, tick_s = "RAPL packages", RAPL_TICK_S

    def __init__(self, domains: Sequence[Path]) -> None:
        self._domains = {path: int((path / "max_energy_range_uj").read_text()) for path in domains}
        self._last = {path: self._now(path) for path in domains}
        self._total = 0

    def read(self) -> float:
        for path, size in self._domains.items():
            now = self._now(path)
            self._total += (now - self._last[path]) % size
            self._last[path] = now
        return self._total / 1e6

    @staticmethod
    def _now(path: Path) -> int:
        try:
            return int((path / "energy_uj").read_text())
        except (OSError, ValueError) as error:
            raise EnergyError(f"RAPL's counter cannot be read: {error}") from error


def nvml_counter(uuid: str) -> Counter:
    """The counter of the GPU with this UUID.

    Raises:
        EnergyError: the board or the driver has none.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        counter = NvmlCounter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError as error:
        raise EnergyError(f"no energy counter by NVML: {error}") from error
    counter.read()
    return counter


def rapl_counter(root: Path = RAPL) -> Counter:
    """The counter of this host's CPU packages.

    Raises:
        EnergyError: there is none, or it is not readable for this user.
    """
    domains = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
    if not domains:
        raise EnergyError("this host shows no RAPL energy counter (virtual machines seldom do)")
    try:
        return RaplCounter(domains)
    except (OSError, ValueError) as error:
        raise EnergyError(f"RAPL's energy counter is not readable for this user: {error}") from error


@dataclass(frozen=True)
class Tick:
    """A change of the counter: iterations done until then, seconds, joules."""

    iterations: int
    seconds: float
    joules: float


@dataclass(frozen=True)
class Window:
    """Work repeated for a while: all of its iterations and seconds; `ticks` is None without a counter."""

    iterations: int
    seconds: float
    ticks: tuple[Tick, ...] | None

    def joules_per_iteration(self, tick_s: float) -> float:
        """Joules of one iteration between the first and the last tick.

        Raises:
            EnergyError: too short, or the counter stood still.
        """
        ticks = self.ticks or ()
        if self.seconds < TICKS_IN_A_WINDOW * tick_s:
            raise EnergyError(
                f"a window of {self.seconds:.2g} s is too short for a counter that ticks every {tick_s:g} s;"
                f" give --window {TICKS_IN_A_WINDOW * tick_s:g} or more"
            )
        if len(ticks) < 2 or ticks[-1].iterations == ticks[0].iterations:  # noqa: PLR2004 - a difference needs two
            raise EnergyError(f"the energy counter stood still for {self.seconds:.3g} s of work")
        covered = ticks[-1].seconds - ticks[0].seconds
        if covered < self.seconds / 2:
            raise EnergyError(f"the energy counter moved for only {covered:.3g} of {self.seconds:.3g} s")
        return (ticks[-1].joules - ticks[0].joules) / (ticks[-1].iterations - ticks[0].iterations)


def run_window(
    work: Callable[[], None],
    seconds: float,
    counter: Counter | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Window:
    """Repeat `work` (which ends when the device is done) for at least that long, and at least twice.

    Raises:
        EnergyError: the counter disappeared.
    """
    began = clock()
    ticks: list[Tick] = []
    last = counter.read() if counter else 0.0
    iterations = 0
    while iterations < 2 or clock() - began < seconds:  # noqa: PLR2004 - one iteration has no spread to hide in
        work()
        iterations += 1
        if counter is not None and (now := counter.read()) != last:
            last = now
            ticks.append(Tick(iterations, clock() - began, now))
    return Window(iterations, clock() - began, tuple(ticks) if counter else None)
