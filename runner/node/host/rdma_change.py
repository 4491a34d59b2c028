"""RDMA ports between two readings: links that went down, errors that were counted. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.host.group import HostReading
from runner.node.host.rdma_reading import RdmaFacts, RdmaPort, Role

# The counter of an InfiniBand port has 8 bits and stays at its highest value (leptonai/gpud #943 shows 255).
_FULL = 255
_NVRX = "NVIDIA resiliency extension, shared_utils/health_check.py, 2025: link_downed that grows is a failure"
_ERRORS = (
    "symbol_error",
    "link_error_recovery",
    "port_rcv_errors",
    "packet_seq_err",
    "local_ack_timeout_err",
)


def judge_rdma_change(
    readings: Sequence[HostReading[RdmaFacts]], judge: Callable[[RdmaFacts], NodeVerdict]
) -> NodeVerdict:
    """The verdict on the last reading, and on what changed since the first.

    A link that went down is judged over the whole time. Notes about totals since boot are left out.

    Args:
        readings: two or more, the oldest first.
        judge: the verdict on one.
    """
    first, last = readings[0], readings[-1]
    now = judge(last.facts)
    if not last.facts.ports:
        return now
    before = {port.where: port for port in first.facts.ports}
    ports = [port for port in last.facts.ports if port.role is Role.NETWORK]
    seconds = f"in {last.at_s:.0f} s"
    downs = {port.where: _downs(before[port.where], port) for port in ports if port.where in before}
    findings = [one for one in now.findings if one.kind != "links-went-down"]
    findings += [_flapped(where, count, seconds) for where, count in downs.items() if count]
    findings += [
        one for port in ports if port.where in before for one in _errors(before[port.where], port, seconds)
    ]
    gone = sorted({port.where for port in first.facts.ports} - {port.where for port in last.facts.ports})
    findings += [_gone(where, seconds) for where in gone]
    full = [
        NotRead(f"link_downed of {port.where}", f"it stands at {_FULL}, its highest value", matters=False)
        for port in ports
        if port.link_layer == "InfiniBand" and port.counters.get("link_downed") == _FULL
    ]
    numbers = tuple(
        NodeNumber("rdma_link_downs", count, (("device", port.device), ("port", port.port)))
        for port in ports
        if (count := downs.get(port.where)) is not None
    )
    return replace(
        now,
        findings=tuple(findings),
        not_read=now.not_read + tuple(full),
        numbers=now.numbers + numbers,
        judged=f"{now.judged}, and their changes {seconds}",
    )


def _downs(before: RdmaPort, now: RdmaPort) -> int | None:
    """How often the link went down; None if nothing counts that.

    An Ethernet port has no link_downed of its own: its interface counts each change of the carrier, up and down.
    """
    old, new = before.counters.get("link_downed"), now.counters.get("link_downed")
    found = [max(0, new - old)] if old is not None and new is not None else []
    if now.link_layer == "Ethernet" and None not in {before.carrier_changes, now.carrier_changes}:
        changes = (now.carrier_changes or 0) - (before.carrier_changes or 0)
        # A port that was up goes down with the first change; one that was down comes up with it.
        found.append(max(0, (changes + before.active) // 2))
    return max(found, default=None)


def _flapped(where: str, count: int, seconds: str) -> NodeFinding:
    return NodeFinding(
        kind="link-flapped",
        action=Action.DRAIN,
        where=where,
        found=f"its link went down {count} times {seconds}"
        if count > 1
        else f"its link went down once {seconds}",
        next="reseat or replace cable and transceiver; look at the same port on the switch",
        source=_NVRX,
    )


def _errors(before: RdmaPort, now: RdmaPort, seconds: str) -> list[NodeFinding]:
    grown = [
        f"{name} +{now.counters[name] - before.counters[name]}"
        for name in _ERRORS
        if name in now.counters and now.counters[name] > before.counters.get(name, now.counters[name])
    ]
    if not grown:
        return []
    return [
        NodeFinding(
            kind="errors-counted",
            action=Action.KEEP,
            where=now.where,
            found=f"{', '.join(grown)} {seconds}",
            next="compare with the other ports under the same load; a port that alone counts errors is the suspect",
            source="chosen here: no source gives a rate of these that is a fault",
        )
    ]


def _gone(where: str, seconds: str) -> NodeFinding:
    return NodeFinding(
        kind="port-vanished",
        action=Action.DRAIN,
        where=where,
        found=f"its device disappeared {seconds}",
        next="look in dmesg for mlx5 and for PCIe errors; reseat the adapter",
        source="chosen here: a device that leaves PCIe ends the jobs that use it",
    )
