"""RDMA ports: state, rate, and what GPUDirect RDMA needs. Pure but for the reader in `rdma_reading`.

A port is compared with the other ports of the same board and link layer on this host, because nothing in sysfs tells
which rate or state a port should have: many hosts have ports without a cable, storage ports and bonds. A port without
others to compare with is not judged.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from runner.base.words import counted
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.host.group import HostGroup
from runner.node.host.rdma_change import judge_rdma_change
from runner.node.host.rdma_gpudirect import judge_gpudirect
from runner.node.host.rdma_reading import PEER_MODULE, RdmaFacts, RdmaPort, Role, read_rdma

PEERS = "chosen here: other ports of the same board on this host show what a port should have"
_ONE_A_GPU = (
    "chosen here: where each GPU has its full port, further ones are for storage, often slower or not used"
)
# leptonai/gpud, components/accelerator/nvidia/infiniband/threshold_default.go, 2025: eight ports of 400 Gb/s.
_TABLE = re.compile(r"\b(?:H100|H200|B200|GB200)\b")
_TABLE_PORTS, _TABLE_GBPS = 8, 400
_TABLE_SOURCE = (
    "leptonai/gpud, threshold_default.go, 2025: hosts with H100, H200 or B200 have 8 ports of 400 Gb/s; chosen here: "
    "only if seven of them are there, since hosts are built with other numbers too"
)
_SERVER_GPUS = 4
_GB_PER_S = 1e9 / 8


def judge_rdma(facts: RdmaFacts) -> NodeVerdict:
    """The verdict on one reading. Counters are totals since the driver was loaded: only notes."""
    if not facts.ports:
        return _without_ports(facts)
    network = [port for port in facts.ports if port.role is not Role.MANAGEMENT]
    findings: list[NodeFinding] = []
    unknown: list[NotRead] = list(facts.not_read)
    for group in _groups(network):
        found, blind = _judge_group(group, network, len(facts.gpus))
        findings += found
        unknown += blind
    if network and not any(port.active for port in network) and not findings and not unknown:
        unknown.append(
            NotRead(
                counted(len(network), "RDMA port"),
                "none is active, and nothing here tells which should be; see rdma link, and ibstat for the cables",
            )
        )
    findings += _missing(facts, network, findings)
    gpudirect = judge_gpudirect(facts, network)
    findings += gpudirect.findings
    unknown += gpudirect.not_read
    findings += _notes(network)
    return NodeVerdict(
        findings=tuple(findings),
        not_read=tuple(unknown),
        numbers=_numbers(network),
        judged=_judged(facts.ports),
        facts={"ports": [_shown(port) for port in facts.ports], "gpus": list(facts.gpus)},
        settings=_settings(facts, network),
    )


def _without_ports(facts: RdmaFacts) -> NodeVerdict:
    if facts.controllers:
        blind = NotRead(
            counted(facts.controllers, "InfiniBand controller"),
            "on PCI, without an RDMA device: modprobe mlx5_ib, or look outside of this container",
        )
        return NodeVerdict(not_read=(*facts.not_read, blind))
    return NodeVerdict(not_read=facts.not_read, not_applicable="this host has no RDMA device")


def _groups(ports: Iterable[RdmaPort]) -> list[list[RdmaPort]]:
    found: dict[tuple[str, str, bool], list[RdmaPort]] = defaultdict(list)
    for port in ports:
        found[port.kind].append(port)
    return list(found.values())


def _judge_group(
    group: Sequence[RdmaPort], network: Sequence[RdmaPort], gpus: int
) -> tuple[list[NodeFinding], list[NotRead]]:
    active = [port for port in group if port.active]
    idle = [port for port in group if not port.active]
    found: list[NodeFinding] = []
    rates = [port.gbps for port in active if port.gbps is not None]
    full = sum(rate == max(rates) for rate in rates)
    enough = gpus >= _SERVER_GPUS and full > 0 and full % gpus == 0
    if enough:
        slower = [port for port in active if port.gbps is not None and port.gbps < max(rates)]
        found += [_beyond_gpus([*idle, *slower], gpus)] if idle or slower else []
    # A minority that is down, beside at least two that are not.
    elif len(active) > max(1, len(idle)):
        found += [_down(port, len(active)) for port in idle]
    else:
        found += [_no_manager(port) for port in idle if _waits_for_manager(port)]
        unused = [port for port in idle if not _waits_for_manager(port)]
        if unused and any(port.active for port in network):
            found.append(_unused(unused))
    for port in () if enough else active:
        faster = [rate for rate in rates if port.gbps is not None and rate > port.gbps]
        if len(faster) * 2 > len(rates):
            found.append(_slow(port, max(rates), len(faster)))
    if all(port.role is Role.NETWORK for port in group):
        return found, []
    # They may be management functions of NVSwitches, whose state says nothing about the network.
    faults = [one for one in found if one.action is not Action.KEEP]
    others = any(port.active for port in network if port not in group)
    return [], [NotRead(one.where, f"{one.found}; whether it manages NVSwitches is known as root only", not others)
                for one in faults]  # fmt: skip


def _waits_for_manager(port: RdmaPort) -> bool:
    return port.link_layer == "InfiniBand" and port.physical == "LinkUp" and port.state in {"INIT", "ARMED"}


def _state(port: RdmaPort) -> str:
    return f"{port.state or 'unknown'}, physical state {port.physical or 'unknown'}"


def _beyond_gpus(ports: Sequence[RdmaPort], gpus: int) -> NodeFinding:
    shown = ", ".join(f"{port.where} ({port.rate if port.active else _state(port)})" for port in ports)
    return NodeFinding(
        kind="ports-beyond-gpus",
        action=Action.KEEP,
        where="node",
        found=f"{shown}: slower or not active, while each of the {gpus} GPUs has a full port of the same board",
        next="compare with a node of the same kind; if it differs, drain the node and check the cable",
        source=_ONE_A_GPU,
    )


def _down(port: RdmaPort, others: int) -> NodeFinding:
    if _waits_for_manager(port):
        then = "the cable is fine and no subnet manager has configured it: check the subnet manager and the switch port"
    elif port.physical == "Disabled" and port.link_layer == "Ethernet":
        # Drivers of Ethernet report Disabled for an interface without a carrier too (mlx5, bnxt_re: query_port).
        name = port.netdev or "INTERFACE"
        then = (
            f"ip link show {name}: with NO-CARRIER check cable, transceiver and switch port; without UP "
            f"it was switched off (ip link set {name} up)"
        )
    elif port.physical == "Disabled":
        then = "it was switched off: enable it in the adapter and at the switch"
    else:
        then = "reseat or replace cable and transceiver, try another switch port, then the adapter"
    return NodeFinding(
        kind="port-down",
        action=Action.DRAIN,
        where=port.where,
        found=f"not active ({_state(port)}), while {others} ports of its board are",
        next=then,
        source=PEERS,
        evidence=(f"state {_state(port)}, rate {port.rate or 'unknown'}",),
    )


def _no_manager(port: RdmaPort) -> NodeFinding:
    return NodeFinding(
        kind="no-subnet-manager",
        action=Action.DRAIN,
        where=port.where,
        found=f"the link is up and the port is not configured ({_state(port)})",
        next="start or repair the subnet manager of its fabric (sminfo shows it)",
        source="InfiniBand Architecture: a port stays in INIT until a subnet manager configures it",
        evidence=(f"state {_state(port)}",),
    )


def _unused(ports: Sequence[RdmaPort]) -> NodeFinding:
    return NodeFinding(
        kind="ports-not-active",
        action=Action.KEEP,
        where="node",
        found=f"{', '.join(port.where for port in ports)}: not active, as most of this board are",
        next="nothing, if no cable belongs there",
        source=PEERS,
    )


def _slow(port: RdmaPort, rate: float, others: int) -> NodeFinding:
    return NodeFinding(
        kind="port-slow",
        action=Action.DRAIN,
        where=port.where,
        found=f"{port.rate}, while {others} ports of its board run at up to {rate:g} Gb/s",
        next="reseat or replace cable and transceiver; compare the configured speed of the switch port",
        source=PEERS,
        evidence=(f"rate {port.rate}",),
    )


def _missing(
    facts: RdmaFacts, network: Sequence[RdmaPort], found: Sequence[NodeFinding]
) -> list[NodeFinding]:
    """A port of 400 Gb/s whose device is not there at all, on a host that has the seven others.

    Hosts with 4 ports for the GPUs and 1 or 2 for storage are built that way.
    """
    if len(facts.gpus) != _TABLE_PORTS or not all(_TABLE.search(gpu) for gpu in facts.gpus):
        return []
    full = [port for port in network if port.link_layer == "InfiniBand" and (port.gbps or 0) >= _TABLE_GBPS]
    known = len(full) + sum(one.kind in {"port-down", "port-slow", "no-subnet-manager"} for one in found)
    if known != _TABLE_PORTS - 1:
        return []
    return [
        NodeFinding(
            kind="port-missing",
            action=Action.DRAIN,
            where="node",
            found=f"{known} InfiniBand ports of {_TABLE_GBPS} Gb/s beside {_TABLE_PORTS} GPUs",
            next="look for the adapter that is gone: lspci -d 15b3:, dmesg | grep mlx5; reseat it",
            source=_TABLE_SOURCE,
            evidence=tuple(port.where for port in full),
        )
    ]


def _notes(network: Sequence[RdmaPort]) -> list[NodeFinding]:
    found = []
    downs = [
        f"{port.where} {port.counters['link_downed']}" for port in network if port.counters.get("link_downed")
    ]
    if downs:
        found.append(
            NodeFinding(
                kind="links-went-down",
                action=Action.KEEP,
                where="node",
                found=f"link_downed since the driver was loaded: {', '.join(downs)}",
                next="read again under load (host_paths --group rdma --watch 60): only a change is a fault",
                source="NVIDIA resiliency extension, shared_utils/health_check.py, 2025: an increment is a failure",
            )
        )
    found += [
        NodeFinding(
            kind="no-roce-v2-address",
            action=Action.KEEP,
            where=port.where,
            found="an active Ethernet port without an address of RoCE v2",
            next="give its interface an address, if NCCL should use it (show_gids lists them)",
            source="NCCL, NCCL_IB_GID_INDEX: RoCE v2 needs such an address",
        )
        for port in network
        if port.active and port.roce_v2 is False
    ]
    return found


def _numbers(network: Sequence[RdmaPort]) -> tuple[NodeNumber, ...]:
    active = [port for port in network if port.active]
    rates = tuple(
        NodeNumber("rdma_port_rate", port.gbps * _GB_PER_S, (("device", port.device), ("port", port.port)))
        for port in active
        if port.gbps is not None
    )
    return (NodeNumber("rdma_ports_active", len(active)), *rates)


def _judged(ports: Sequence[RdmaPort]) -> str:
    managing = sum(port.role is Role.MANAGEMENT for port in ports)
    left = f" ({counted(managing, 'management function')} of NVSwitches left out)" if managing else ""
    return f"state and rate of {counted(len(ports) - managing, 'RDMA port')}{left}"


def _settings(facts: RdmaFacts, network: Sequence[RdmaPort]) -> dict[str, str]:
    boards: dict[str, list[str]] = defaultdict(list)
    for port in network:
        boards[port.board].append(port.firmware or "unknown")
    found = {
        f"RDMA firmware of {board or 'unknown board'}": _tally(all_of) for board, all_of in boards.items()
    }
    found["RDMA rates"] = _tally([port.rate or "unknown" for port in network if port.active])
    found[PEER_MODULE] = "loaded" if facts.peer_module else "not loaded"
    return found


def _tally(values: Sequence[str]) -> str:
    tally = Counter(values)
    return ", ".join(f"{value} × {count}" for value, count in sorted(tally.items())) or "none"


def _shown(port: RdmaPort) -> dict[str, object]:
    return {
        "device": port.device, "port": port.port, "role": port.role.value, "state": port.state,
        "physical": port.physical, "rate": port.rate, "link_layer": port.link_layer, "board": port.board,
        "firmware": port.firmware, "operstate": port.operstate, "counters": dict(port.counters),
    }  # fmt: skip


GROUP: HostGroup[RdmaFacts] = HostGroup(
    "rdma", read_rdma, judge_rdma, lambda readings: judge_rdma_change(readings, judge_rdma)
)
