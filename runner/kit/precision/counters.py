"""The hardware's energy counters, and the sensors that are read with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runner.hardware.gpus import throttle_reasons

NVML_TICK_S = 0.1
RAPL_TICK_S = 0.001
RAPL = Path("/sys/class/powercap")


class EnergyError(Exception):
    """The counter is missing or unreliable; the message says why."""


class Counter(Protocol):
    """Joules since an arbitrary origin, updated about every `tick_s` seconds."""

    name: str
    tick_s: float

    def read(self) -> float:
        """Joules. Raises EnergyError."""


@dataclass(frozen=True)
class Sensors:
    """The sensors of a GPU at one time; None for a missing sensor."""

    sm_clock_hz: float | None
    memory_clock_hz: float | None
    temperature_c: float | None
    throttled_by: tuple[str, ...]


class NvmlCounter:
    """The total-energy counter of one GPU (Volta and later), in millijoules since the driver was loaded."""

    name, tick_s = "NVML total energy", NVML_TICK_S

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise EnergyError(f"cannot read NVML's energy counter: {error}") from error

    def sensors(self) -> Sensors:
        """Current clocks, temperature and throttle reasons."""
        nvml = self._nvml

        def ask(name: str, *arguments: object) -> Any:
            try:
                return getattr(nvml, name)(self._handle, *arguments)
            except nvml.NVMLError:
                return None

        sm = ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        memory = ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)
        temperature = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        return Sensors(
            None if sm is None else sm * 1e6,
            None if memory is None else memory * 1e6,
            None if temperature is None else float(temperature),
            throttle_reasons(ask("nvmlDeviceGetCurrentClocksEventReasons") or 0),
        )


class RaplCounter:
    """One package domain of Intel's or AMD's RAPL, in microjoules; it wraps to 0 at its range."""

    name, tick_s = "RAPL packages", RAPL_TICK_S

    def __init__(self, domain: Path) -> None:
        self._domain = domain
        self._range = int((domain / "max_energy_range_uj").read_text())
        self._last, self._total = self._now(), 0

    def read(self) -> float:
        now = self._now()
        moved = (now - self._last) % self._range
        if moved > self._range / 2:
            # Read every few milliseconds, it changes by far less: this is a step back, or more than one wrap.
            raise EnergyError(f"RAPL's counter jumped from {self._last} to {now} µJ")
        self._total += moved
        self._last = now
        return self._total / 1e6

    def _now(self) -> int:
        try:
            return int((self._domain / "energy_uj").read_text())
        except (OSError, ValueError) as error:
            raise EnergyError(f"cannot read RAPL's energy counter: {error}") from error


def nvml_counter(uuid: str) -> NvmlCounter:
    """The counter of the GPU with this UUID.

    Raises:
        EnergyError: the board or the driver has none.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        counter = NvmlCounter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError as error:
        raise EnergyError(f"NVML has no energy counter: {error}") from error
    counter.read()
    return counter


def rapl_counters(root: Path = RAPL) -> tuple[RaplCounter, ...]:
    """The counters of this host's CPU packages.

    Raises:
        EnergyError: there are none, or this user has no permission to read them.
    """
    try:
        # Other domains are inside a package (core, dram) or contain all of them (psys) and would count twice.
        packages = [
            path
            for path in sorted(root.glob("intel-rapl:*"))
            if (path / "name").read_text().startswith("package")
        ]
        counters = tuple(map(RaplCounter, packages))
    except (OSError, ValueError, EnergyError) as error:
        raise EnergyError(f"no permission to read RAPL's energy counter: {error}") from error
    if not counters:
        raise EnergyError("this host has no RAPL energy counter (most virtual machines have none)")
    return counters


def counters_of(device: str) -> tuple[tuple[Counter, ...], Callable[[], Sensors] | None]:
    """Counters of the device (the current GPU, or all CPU packages), and its sensors.

    Raises:
        EnergyError: there are none.
    """
    if device == "cpu":
        return rapl_counters(), None
    import torch

    counter = nvml_counter(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return (counter,), counter.sensors
