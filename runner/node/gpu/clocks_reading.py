"""Clocks, the reasons for them, temperatures and power limits of the GPUs, as NVML reports them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.hardware.nvml import utilisation_of
from runner.node.findings import NotRead
from runner.node.gpu.asking import NvmlAsker, OpenGpu

# Bits of nvmlClocksEventReasons.
SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x04, 0x08, 0x20, 0x40, 0x80
SET_CLOCKS, RELIABILITY = 0x02, 0x400
HARDWARE = HW_SLOWDOWN | HW_THERMAL | POWER_BRAKE
# Those that last only for a moment at a change of the clocks are looked at twice, so many seconds apart.
_TWICE, _APART_S = HARDWARE | SW_THERMAL, 0.5

_REASONS = "nvmlDeviceGetCurrentClocksEventReasons"
# Counters of nanoseconds: the field of nvmlDeviceGetFieldValues, and the policy of nvmlDeviceGetViolationStatus that
# counts the same where the field is not there.
_COUNTERS: Mapping[str, tuple[int, int | None]] = {
    "power cap": (74, 0),
    "heat": (75, 1),
    "board limit": (77, 3),
    "reliability": (79, 5),
    "software thermal": (269, None),
    "hardware thermal": (270, None),
    "power brake": (271, None),
}
# pynvml 12.575.51 numbers the last three 251 to 253, and 269 to 271 mean something else there; 12.570 has none.
_RENUMBERED, _OLDEST_DRIVER = 269, 580
_MEMORY_TEMPERATURE = 82
_SLOWDOWN, _SHUTDOWN, _SM, _MEMORY = 1, 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class GpuClocks:
    """One GPU at one moment. None is unknown. Clocks in MHz, powers in W, temperatures in °C.

    Attributes:
        reasons: bits of nvmlClocksEventReasons.
        held: of the bits that may last only for a moment, those that were there half a second later too.
        counted_at: seconds on the monotonic clock, when the counters were read.
        counters: nanoseconds for which something held the clocks back, by what it is; only those that are counted.
        margin: distance to the nearest threshold at which the GPU slows down, as NVML documents it.
        limit, enforced: the limit that was set, and the lowest of all that apply.
        set_sm, default_sm: application clocks.
        utilisation: 0 to 1; None where it is unknown, as on a GPU with MIG.
        not_read: what could not be read and should be there.
    """

    index: int
    name: str
    mig: bool = False
    sm: int | None = None
    sm_max: int | None = None
    memory: int | None = None
    memory_max: int | None = None
    reasons: int | None = None
    held: int = 0
    counted_at: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    temperature: int | None = None
    memory_temperature: int | None = None
    margin: int | None = None
    slowdown_at: int | None = None
    shutdown_at: int | None = None
    power: float | None = None
    limit: float | None = None
    enforced: float | None = None
    default: float | None = None
    lowest: float | None = None
    highest: float | None = None
    set_sm: int | None = None
    default_sm: int | None = None
    utilisation: float | None = None
    not_read: tuple[NotRead, ...] = ()

    @property
    def where(self) -> str:
        """`GPU 3`."""
        return f"GPU {self.index}"

    @property
    def in_force(self) -> float | None:
        """The power limit that applies, in W."""
        known = [one for one in (self.limit, self.enforced) if one is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class ClockFacts:
    """The GPUs at one moment; `counts_hardware`: the driver counts the time in hardware slowdown by its kinds."""

    gpus: tuple[GpuClocks, ...]
    counts_hardware: bool


def read_clocks(asker: NvmlAsker, gpus: Sequence[OpenGpu]) -> ClockFacts:
    """Read them; half a second longer if a GPU is slowed down by its hardware or by heat."""
    counts = _branch(asker) >= _OLDEST_DRIVER
    found = [_read(asker, gpu, counts) for gpu in gpus]
    if any((one.reasons or 0) & _TWICE for one in found):
        time.sleep(_APART_S)
        again = [asker.ask(_REASONS, gpu.handle, of=gpu.where) or 0 for gpu in gpus]
        found = [
            replace(one, held=(one.reasons or 0) & now & _TWICE)
            for one, now in zip(found, again, strict=True)
        ]
    return ClockFacts(tuple(found), counts)


def _branch(asker: NvmlAsker) -> int:
    version = asker.ask("nvmlSystemGetDriverVersion")
    text = version.decode(errors="replace") if isinstance(version, bytes) else version or ""
    major = text.partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() else 0


def _read(asker: NvmlAsker, gpu: OpenGpu, counts_hardware: bool) -> GpuClocks:
    handle, of = gpu.handle, gpu.where

    def number(call: str, *arguments: object) -> int | None:
        found = asker.ask(call, handle, *arguments, of=of)
        return None if found is None else int(found)

    def watts(call: str) -> float | None:
        # 0 and 2³² - 1 stand for unknown.
        found = number(call)
        return found / 1e3 if found and found < 2**32 - 1 else None

    reasons = number(_REASONS)
    rates = asker.ask("nvmlDeviceGetUtilizationRates", handle, of=of)
    span = asker.ask("nvmlDeviceGetPowerManagementLimitConstraints", handle, of=of)
    lowest, highest = (one / 1e3 for one in span) if span else (None, None)
    return GpuClocks(
        index=gpu.index,
        name=gpu.name,
        mig=gpu.mig,
        sm=number("nvmlDeviceGetClockInfo", _SM),
        sm_max=number("nvmlDeviceGetMaxClockInfo", _SM) or None,
        memory=number("nvmlDeviceGetClockInfo", _MEMORY),
        memory_max=number("nvmlDeviceGetMaxClockInfo", _MEMORY) or None,
        reasons=reasons,
        counted_at=time.monotonic(),
        counters=_counters(asker, gpu, counts_hardware),
        temperature=number("nvmlDeviceGetTemperature", 0) or None,
        memory_temperature=asker.field(handle, _MEMORY_TEMPERATURE, of=of) or None,
        margin=number("nvmlDeviceGetMarginTemperature"),
        slowdown_at=number("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN),
        shutdown_at=number("nvmlDeviceGetTemperatureThreshold", _SHUTDOWN),
        power=watts("nvmlDeviceGetPowerUsage"),
        limit=watts("nvmlDeviceGetPowerManagementLimit"),
        enforced=watts("nvmlDeviceGetEnforcedPowerLimit"),
        default=watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        lowest=lowest,
        highest=highest,
        set_sm=number("nvmlDeviceGetApplicationsClock", _SM),
        default_sm=number("nvmlDeviceGetDefaultApplicationsClock", _SM),
        utilisation=utilisation_of(rates),
        not_read=() if reasons is not None else _unread(asker, gpu),
    )


def _counters(asker: NvmlAsker, gpu: OpenGpu, counts_hardware: bool) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name, (number, policy) in _COUNTERS.items():
        if number >= _RENUMBERED and not counts_hardware:
            continue
        value = asker.field(gpu.handle, number, of=gpu.where)
        if value is None and policy is not None:
            status = asker.ask("nvmlDeviceGetViolationStatus", gpu.handle, policy, of=gpu.where)
            value = None if status is None else int(status.violationTime)
        if value is not None:
            found[name] = value
    return found


def _unread(asker: NvmlAsker, gpu: OpenGpu) -> tuple[NotRead, ...]:
    refusal = asker.refusal(_REASONS, gpu.where)
    if refusal is None:
        return ()
    # A virtual GPU does not have them by design.
    return (
        NotRead(
            f"reasons for the clocks of {gpu.where}", refusal.text, matters=refusal.kind != "unsupported"
        ),
    )
