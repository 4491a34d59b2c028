"""Group `clocks`: what holds the clocks of the GPUs back.

One reading shows only what needs no load to be judged: hardware slowdown now, and limits that were left behind. The
power limit is where a GPU under dense load is meant to run. What needs a load is in `clocks_watch`.
"""

from collections.abc import Callable, Iterable, Sequence

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict
from runner.node.gpu.clocks_reading import (
    HARDWARE,
    HW_THERMAL,
    POWER_BRAKE,
    SW_THERMAL,
    ClockFacts,
    GpuClocks,
    read_clocks,
)
from runner.node.gpu.clocks_watch import judge_clock_watch
from runner.node.gpu.group import GpuGroup, GpuReading
from runner.node.gpu.together import known_settings, same_on_all

_DOCUMENTED = "NVML, NvmlClocksEventReasons: slows the clocks to half or less"
_GPUD = "gpud, hw-slowdown (2025): hardware inspection"
_ALGALON = "Algalon, gpu-health.yml (2026)"
# The same rounding as of the driver: limits are set in mW and shown in W.
_LOWERED = 0.99
# °C. Algalon's alerts, of which one reading shows only the height and not the 2 or 5 min.
_HOT, _MEMORY_HOT = 92, 95
# °C; chosen: a GPU this close to its threshold slows down at the next warm day.
_SMALL_MARGIN = 5


def judge_clocks(readings: Sequence[GpuReading[ClockFacts]]) -> NodeVerdict:
    """The verdict on one reading, or on those of a watch."""
    last = readings[-1].facts
    unread = tuple(one for gpu in last.gpus for one in gpu.not_read)
    known = [gpu for gpu in last.gpus if gpu.reasons is not None]
    if not known and all(not one.matters for one in unread):
        return NodeVerdict(
            not_read=unread,
            not_applicable="no GPU here reports the reasons for its clocks, as with virtual GPUs",
        )
    watched = judge_clock_watch(readings) if len(readings) > 1 else NodeVerdict()
    findings = [
        *_hardware(readings),
        *_limits(last.gpus, {one.where for one in watched.faults if one.kind == "power-limit-lowered"}),
        *_application_clocks(last.gpus),
        *_temperatures(last.gpus),
    ]
    return NodeVerdict(
        findings=(*findings, *watched.findings),
        not_read=(*unread, *watched.not_read),
        numbers=(*_numbers(last.gpus), *watched.numbers),
        judged=f"clocks, their reasons and power limits of {_count(len(known))}{watched.judged}",
        facts={"gpus": [_facts(gpu) for gpu in last.gpus], **watched.facts},
        settings=_settings(last.gpus),
    )


def _hardware(readings: Sequence[GpuReading[ClockFacts]]) -> Iterable[NodeFinding]:
    for place, gpu in enumerate(readings[-1].facts.gpus):
        series = [one.facts.gpus[place] for one in readings]
        held = _any(one.held for one in series)
        seen = _any(one.reasons or 0 for one in series)
        often = len(readings) > 1 and 2 * sum(bool(one.held & HARDWARE) for one in series) > len(series)
        if held & (HW_THERMAL | POWER_BRAKE) or (held & HARDWARE and often):
            yield _slowed(gpu, held)
        elif held & HARDWARE:
            yield NodeFinding(
                kind="hardware-slowdown-alone",
                action=Action.KEEP,
                where=gpu.where,
                found=f"hardware slowdown without heat or power brake{_at(gpu)}",
                next="watch it under load: gpu_state --group clocks --watch 60 --load",
                source="NVML, NvmlClocksEventReasons: may also be reported during a change of the clocks",
            )
        elif seen & HARDWARE:
            yield NodeFinding(
                kind="hardware-slowdown-brief",
                action=Action.KEEP,
                where=gpu.where,
                found=f"hardware slowdown was reported and was gone half a second later (0x{seen:x})",
                next="watch it under load: gpu_state --group clocks --watch 60 --load",
                source="NVML, NvmlClocksEventReasons: may also be reported during a change of the clocks",
            )
        if held & SW_THERMAL:
            yield NodeFinding(
                kind="software-thermal-slowdown",
                action=Action.KEEP,
                where=gpu.where,
                found=f"the driver holds the clocks back because of heat{_at(gpu)}",
                next="watch it under load (--watch 60); look at the air and at the fans",
                source="chosen here: one reading does not show how long it lasts",
            )


def _slowed(gpu: GpuClocks, bits: int) -> NodeFinding:
    if bits & POWER_BRAKE:
        kind, what = "power-brake", "the power supply holds the clocks down (hardware power brake)"
        advice = "drain the node; check the power supplies and the power events of the BMC"
    elif bits & HW_THERMAL:
        kind, what = "hardware-thermal-slowdown", "the hardware halves the clocks because of heat"
        advice = "drain the node; check fans, air baffles and coolant, then the heat sink"
    else:
        kind, what = "hardware-slowdown", "the hardware halves the clocks in most readings of the watch"
        advice = "drain the node; check cooling and power supplies"
    return NodeFinding(
        kind=kind,
        action=Action.DRAIN,
        where=gpu.where,
        found=f"{what}{_at(gpu)}",
        next=advice,
        source=f"{_DOCUMENTED}; {_GPUD}",
        evidence=(f"clocks event reasons 0x{bits:x}, twice within half a second",),
    )


def _limits(gpus: Sequence[GpuClocks], known: set[str]) -> Iterable[NodeFinding]:
    """Limits below the default: left behind where the GPUs of a node differ; where all are alike, somebody's choice."""
    lowered = [gpu for gpu in gpus if _is_lowered(gpu)]
    for gpu in lowered:
        alike = len({(one.in_force, one.default) for one in gpus if one.name == gpu.name}) == 1
        if gpu.where in known:
            continue
        outside = gpu.limit is not None and gpu.enforced is not None and gpu.enforced < _LOWERED * gpu.limit
        by = (
            "below the limit that is set: something outside of the driver caps it, such as the BMC"
            if outside
            else "set with nvidia-smi -pl or by a tool"
        )
        advice = (
            "ask the BMC or the rack's power manager for its cap"
            if outside
            else f"if it is not a choice: nvidia-smi -i {gpu.index} -pl {gpu.default:.0f}"
        )
        yield NodeFinding(
            kind="power-capped-from-outside" if outside else "power-limit-lowered",
            action=Action.KEEP if alike else Action.RESTART,
            where=gpu.where,
            found=f"power limit {gpu.in_force:.0f} W, default {gpu.default:.0f} W; {by}",
            next=advice,
            source=(
                "chosen here: the same limit on all GPUs of a node is taken for a choice"
                if alike
                else "chosen here: GPUs of one node with different limits are equal in no job"
            ),
        )


def _is_lowered(gpu: GpuClocks) -> bool:
    return gpu.in_force is not None and gpu.default is not None and gpu.in_force < _LOWERED * gpu.default


def _application_clocks(gpus: Sequence[GpuClocks]) -> Iterable[NodeFinding]:
    for gpu in gpus:
        alike = len({(one.set_sm, one.default_sm) for one in gpus if one.name == gpu.name}) == 1
        if gpu.set_sm is None or gpu.default_sm is None or gpu.set_sm >= gpu.default_sm:
            continue
        yield NodeFinding(
            kind="application-clock-lowered",
            action=Action.KEEP if alike else Action.RESTART,
            where=gpu.where,
            found=f"application clock {gpu.set_sm} MHz, default {gpu.default_sm} MHz",
            next=f"if it is not a choice: nvidia-smi -i {gpu.index} -rac",
            source="chosen here: as for power limits",
        )


def _temperatures(gpus: Sequence[GpuClocks]) -> Iterable[NodeFinding]:
    for gpu in gpus:
        found = []
        if gpu.temperature is not None and gpu.temperature > _HOT:
            found.append((f"{gpu.temperature} °C", f"{_ALGALON}: above {_HOT} °C for 2 min is critical"))
        if gpu.memory_temperature is not None and gpu.memory_temperature > _MEMORY_HOT:
            found.append(
                (
                    f"memory at {gpu.memory_temperature} °C",
                    f"{_ALGALON}: above {_MEMORY_HOT} °C for 5 min is a warning",
                )
            )
        if gpu.margin is not None and gpu.margin <= _SMALL_MARGIN:
            found.append(
                (f"{gpu.margin} °C below the next slowdown threshold", "chosen here: 5 °C is a warm day")
            )
        for what, source in found:
            yield NodeFinding(
                kind="hot",
                action=Action.KEEP,
                where=gpu.where,
                found=what,
                next="look at the air, and compare with the other GPUs",
                source=source,
            )


def _numbers(gpus: Sequence[GpuClocks]) -> Iterable[NodeNumber]:
    for gpu in gpus:
        if gpu.in_force is not None and gpu.default is not None:
            yield NodeNumber("power_limit_share", gpu.in_force / gpu.default, (("gpu", gpu.index),))


def _settings(gpus: Sequence[GpuClocks]) -> dict[str, str]:
    shown: dict[str, Callable[[GpuClocks], str | None]] = {
        "power limit": lambda gpu: None if gpu.in_force is None else f"{gpu.in_force:.0f} W",
        "application clock": lambda gpu: None if gpu.set_sm is None else f"{gpu.set_sm} MHz",
        "highest clock": lambda gpu: None if gpu.sm_max is None else f"{gpu.sm_max} MHz",
    }
    return known_settings({name: same_on_all(map(of, gpus)) for name, of in shown.items()})


def _facts(gpu: GpuClocks) -> dict[str, object]:
    hidden = {"not_read", "name", "counters", "counted_at"}
    known = {name: value for name, value in vars(gpu).items() if name not in hidden and value is not None}
    return {**known, "counters": dict(gpu.counters)}


def _any(bits: Iterable[int]) -> int:
    found = 0
    for one in bits:
        found |= one
    return found


def _at(gpu: GpuClocks) -> str:
    known = [
        f"{gpu.sm} MHz" if gpu.sm is not None else "",
        f"{gpu.temperature} °C" if gpu.temperature is not None else "",
        f"{gpu.power:.0f} W" if gpu.power is not None else "",
    ]
    return f": {', '.join(filter(None, known))}" if any(known) else ""


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' * (gpus != 1)}"


GROUP = GpuGroup("clocks", read_clocks, judge_clocks)
