"""The NVLink fabric of this node: whether each GPU is registered with it, and what is missing if not.

CUDA starts on a GPU of an NVSwitch board only after its registration: until then it returns error 802.
"""

from collections.abc import Sequence

from runner.base.units import format_duration
from runner.base.words import counted, ranges
from runner.hardware.fabric_health import Condition
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.fabric_reading import FabricFacts, GpuFabric, read_fabric
from runner.node.gpu.fabric_services import (
    FABRIC_MODULES,
    RACK,
    missing_service,
    next_start_of_manager,
    service_evidence,
    start_of_manager,
)
from runner.node.gpu.group import GpuGroup, GpuReading
from runner.node.gpu.together import same_on_all

# Fabric Manager starts with the node and registers all GPUs within seconds of the driver's start. Chosen, in seconds.
_STARTING_S = 120.0
_NO_FABRIC = "not supported"
_USER_GUIDE = "NVIDIA, Fabric Manager User Guide (2025-05)"
_DCGM = "NVIDIA, DCGM's health watch (2026) fails a GPU on it"


def judge_fabric(readings: Sequence[GpuReading[FabricFacts]]) -> NodeVerdict:
    """The verdict on the newest reading: a registration that has just ended needs no action any more."""
    facts = readings[-1].facts
    unread = tuple(NotRead(f"fabric of GPU {gpu.index}", gpu.unread) for gpu in facts.gpus if gpu.unread)
    members = [gpu for gpu in facts.gpus if gpu.state not in {None, _NO_FABRIC}]
    if not members:
        return _without_state(facts, unread)
    waiting = [gpu for gpu in members if gpu.state != "completed"]
    early = facts.host.uptime_s is not None and facts.host.uptime_s <= _STARTING_S
    findings = [*_failed(members), *_complaints(members), *next_start_of_manager(facts.host)]
    if waiting and early:
        unread += (_too_early(waiting, facts.host.uptime_s or 0.0),)
    elif waiting:
        findings.insert(0, _not_registered(waiting, facts))
    return NodeVerdict(
        findings=tuple(findings),
        not_read=unread,
        numbers=tuple(
            NodeNumber("fabric_ready", float(_is_ready(gpu)), (("gpu", gpu.index), ("source", "nvml")))
            for gpu in members
        ),
        judged=f"the registration of {counted(len(members), 'GPU')} with the NVLink fabric",
        facts=_shown(facts),
        settings=_settings(facts),
    )


def _is_ready(gpu: GpuFabric) -> bool:
    return gpu.state == "completed" and gpu.error is None and not any(one.is_fault for one in gpu.complaints)


def _without_state(facts: FabricFacts, unread: tuple[NotRead, ...]) -> NodeVerdict:
    """NVSwitch boards up to A100 report no state: there, only the daemon tells."""
    host, shown, settings = facts.host, _shown(facts), _settings(facts)
    rack = [gpu for gpu in facts.gpus if RACK.search(gpu.name)]
    if rack and not any(gpu.virtual for gpu in rack):
        note = NodeFinding(
            kind="fabric-not-supported",
            action=Action.KEEP,
            where=_where(rack),
            found=f"{rack[0].name} reports no fabric",
            next="in an NVL72 rack, check Fabric Manager on the switch trays; without switches this is by design",
            source="gpud #1108 (2025-10) calls this state unhealthy on GB200",
        )
        return NodeVerdict(
            findings=(note,), not_read=unread, judged="the fabric of a rack", facts=shown, settings=settings
        )
    if not host.switches or unread:
        return NodeVerdict(
            not_read=unread,
            not_applicable="no GPU here reports a fabric, as on PCIe boards, on boards without NVSwitches and in"
            " virtual machines without NVLink",
            facts=shown,
            settings=settings,
        )
    judged = f"whether Fabric Manager runs, for {counted(len(host.switches), 'NVSwitch', 'NVSwitches')}"
    if "nv-fabricmanager" in host.daemons:
        return NodeVerdict(judged=judged, facts=shown, settings=settings)
    if not host.whole:
        hidden = NotRead(
            "Fabric Manager",
            "this board reports no fabric state, and this container does not show the node's processes; look on the"
            " host",
        )
        return NodeVerdict(not_read=(hidden,), facts=shown, settings=settings)
    if host.uptime_s is not None and host.uptime_s <= _STARTING_S:
        return NodeVerdict(not_read=(_too_early(facts.gpus, host.uptime_s),), facts=shown, settings=settings)
    finding = NodeFinding(
        kind="fabric-manager-missing",
        action=Action.DRAIN,
        where="node",
        found=f"no process nv-fabricmanager, and the node has {counted(len(host.switches), 'NVSwitch', 'NVSwitches')}",
        next=start_of_manager(host),
        source=f"{_USER_GUIDE}: CUDA does not start on NVSwitch boards before Fabric Manager has configured them",
    )
    return NodeVerdict(findings=(finding,), judged=judged, facts=shown, settings=settings)


def _too_early(gpus: Sequence[GpuFabric], uptime_s: float) -> NotRead:
    return NotRead(
        f"fabric of {_where(gpus)}",
        f"not registered yet, and the node started {format_duration(uptime_s)} ago; look again"
        f" {format_duration(_STARTING_S)} after the start",
    )


def _not_registered(waiting: Sequence[GpuFabric], facts: FabricFacts) -> NodeFinding:
    host = facts.host
    since = "" if host.uptime_s is None else f", {format_duration(host.uptime_s)} after the start of the node"
    states = same_on_all(gpu.state for gpu in waiting)
    return NodeFinding(
        kind="fabric-not-registered",
        action=Action.DRAIN,
        where=_where(waiting),
        found=f"fabric state {states}{since}: CUDA returns error 802",
        next=missing_service(waiting, facts),
        source=f"{_USER_GUIDE}: states, and NVLSM from B200 on; gpu-operator #2781 (2026-08): modules; chosen here:"
        f" {_STARTING_S:g} s, as GPUs register at the start",
        evidence=service_evidence(host),
    )


def _failed(gpus: Sequence[GpuFabric]) -> list[NodeFinding]:
    errors = sorted({gpu.error for gpu in gpus if gpu.state == "completed" and gpu.error})
    return [
        NodeFinding(
            kind="fabric-registration-failed",
            action=Action.DRAIN,
            where=_where([gpu for gpu in gpus if gpu.error == error]),
            found=f"the registration with the fabric ended with an error: {error}",
            next="read /var/log/fabricmanager.log; reset all GPUs of the board or reboot the node, then look again",
            source="NVIDIA, NVML API: the status of a completed registration; Azure's azhpc-images #506 (2026-03)",
        )
        for error in errors
    ]


_REGISTERED = "chosen here: the GPU is registered, so CUDA starts"
# What each complaint of the driver asks for, and whose rule it is.
_COMPLAINTS: dict[Condition, tuple[str, str]] = {
    "bandwidth": ("find the links that are down: runbook show nvlink-link-errors", _DCGM),
    "recovery": ("look again in a minute; if it stays, reset all GPUs of the board", _DCGM),
    "route": ("reset all GPUs of the board; if it returns, have the switch repaired", _DCGM),
    "timeout": ("look again in a minute; if it stays, reset all GPUs of the board", _DCGM),
    "configuration": (
        "see the fabric section of nvidia-smi -q and the Fabric Manager log",
        "NVIDIA, NVML API: an incorrect configuration",
    ),
    "partition": ("check the partitions in Fabric Manager", _REGISTERED),
    "manager": ("jobs that run go on; check the Fabric Manager of the rack", _REGISTERED),
    "summary": ("see the fabric section of nvidia-smi -q", "NVIDIA, NVML API: the driver's own summary"),
}


def _complaints(gpus: Sequence[GpuFabric]) -> list[NodeFinding]:
    registered = [gpu for gpu in gpus if gpu.state == "completed"]
    every = dict.fromkeys(one for gpu in registered for one in gpu.complaints)
    return [
        NodeFinding(
            kind=f"fabric-{one.condition}",
            action=Action.DRAIN if one.is_fault else Action.KEEP,
            where=_where([gpu for gpu in registered if one in gpu.complaints]),
            found=f"the driver reports {one.text}",
            next=_COMPLAINTS[one.condition][0],
            source=_COMPLAINTS[one.condition][1],
        )
        for one in every
    ]


def _where(gpus: Sequence[GpuFabric]) -> str:
    return f"GPU {ranges(gpu.index for gpu in gpus)}"


def _settings(facts: FabricFacts) -> dict[str, str]:
    manager = {
        name: version
        for name, version in facts.host.packages.items()
        if "fabricmanager" in name or name == "nvlsm"
    }
    state = same_on_all(gpu.state for gpu in facts.gpus)
    return {"fabric state": state, **manager} if state else manager


def _shown(facts: FabricFacts) -> dict[str, object]:
    host = facts.host
    return {
        "states": {str(gpu.index): gpu.state for gpu in facts.gpus},
        "cliques": {str(gpu.index): gpu.clique for gpu in facts.gpus if gpu.clique is not None},
        "persistent": {str(gpu.index): gpu.persistent for gpu in facts.gpus},
        "daemons": sorted(host.daemons) if host.whole else None,
        "modules": sorted(host.modules & {*FABRIC_MODULES, "nvidia_uvm", "nvidia_modeset"})
        if host.modules
        else None,
        "driver": host.module_version,
        "packages": dict(host.packages),
        "packages_unread": host.packages_unread,
        "switches": len(host.switches),
        "uptime_s": host.uptime_s,
    }


GROUP = GpuGroup("fabric", read_fabric, judge_fabric)
