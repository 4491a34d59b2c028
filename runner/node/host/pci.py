"""Group `pci`: links narrower or slower than both ends allow, processes on the far NUMA node, ACS, PCIe errors.

A narrow slot is not a fault: a link is compared with the smaller maximum of its two ends. The speed of a GPU's own
link is not judged, since it slows down while the GPU is idle. A virtual machine may show links that are made up: what
is found there is only a note. The same holds where a virtual machine cannot be told (CPUs without the flags of x86).
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.host.group import HostGroup
from runner.node.host.pci_config import COMPLETION_REDIRECT, DIRECT_TRANSLATED, REQUEST_REDIRECT
from runner.node.host.pci_links import device_name, link_text, links_above, narrow_links, slow_links
from runner.node.host.pci_reading import PciDevice, PciFacts, read_pci

# Fewer serve all GPUs of a node by design.
_ENOUGH_ADAPTERS = 4
_AER = "Linux, sysfs-bus-pci-devices-aer_stats: totals since boot"
_NCCL = "NCCL user guide, GPU troubleshooting, PCI Access Control Services (read 2026)"


def judge_pci(facts: PciFacts) -> NodeVerdict:
    """The verdict on one host."""
    if not facts.gpus:
        return NodeVerdict(not_applicable="this host shows no NVIDIA GPU on its PCI bus")
    narrow, far = list(narrow_links(facts)), _far(facts)
    findings = [*narrow, *slow_links(facts), *_far_findings(facts, far), *_on_one_node(facts)]
    findings += [*_redirected(facts), *_errors(facts)]
    virtual = " of a virtual machine" if facts.virtual else ""
    numbers = [NodeNumber("narrow_links", len(narrow))]
    if _is_bound(facts) or facts.nodes > 1:
        numbers.append(NodeNumber("far_gpus", len(far)))
    return NodeVerdict(
        findings=tuple(findings),
        not_read=tuple(_not_seen(facts)),
        numbers=tuple(numbers),
        judged=f"PCIe links and NUMA nodes of {len(facts.gpus)} GPUs and {len(facts.nics)} adapters{virtual}",
        facts=_facts(facts),
        settings=_settings(facts),
    )


def _is_bound(facts: PciFacts) -> bool:
    return bool(facts.allowed) and bool(facts.online) and not facts.online <= facts.allowed


def _far(facts: PciFacts) -> tuple[PciDevice, ...]:
    """The GPUs that a bound process is far from: of those that it has open, else of all."""
    own = [gpu for gpu in facts.gpus if gpu.address in facts.own_gpus] or facts.gpus
    known = [gpu for gpu in own if gpu.node is not None and gpu.cpus]
    if not _is_bound(facts) or not known:
        return ()
    return tuple(gpu for gpu in known if not gpu.cpus & facts.allowed)


def _far_findings(facts: PciFacts, far: Sequence[PciDevice]) -> Iterable[NodeFinding]:
    own = [gpu for gpu in facts.gpus if gpu.address in facts.own_gpus] or facts.gpus
    if not far:
        return
    gpu = far[0]
    cpus = _ranges(gpu.cpus)
    everything = len(far) == len(own)
    yield NodeFinding(
        kind="far-numa-node",
        # A process that is near some of its GPUs may use just these.
        action=Action.RESTART if everything else Action.KEEP,
        where="judged process",
        found=(
            f"it may use the CPUs {_ranges(facts.allowed)}, and "
            + ("none of its GPUs is" if everything else f"{len(far)} of {len(own)} GPUs are not")
            + f" near these; {gpu.address} is on NUMA node {gpu.node}"
        ),
        next=f"start it with numactl --cpunodebind={gpu.node} --membind={gpu.node}, or taskset -c {cpus}"
        if everything
        else "bind each rank to the NUMA node of its own GPU",
        source="Linux: local_cpulist of the GPU and Cpus_allowed_list of the process",
        evidence=tuple(f"{one.address}: node {one.node}, CPUs {_ranges(one.cpus)}" for one in far),
    )


def _on_one_node(facts: PciFacts) -> Iterable[NodeFinding]:
    """Adapters for all GPUs on one NUMA node: the other GPUs' traffic crosses between the sockets."""
    gpus, nics = ({one.node for one in found if one.node is not None} for found in (facts.gpus, facts.nics))
    bare = gpus - nics
    if facts.virtual or not nics or not bare or len(facts.nics) < _ENOUGH_ADAPTERS:
        return
    yield NodeFinding(
        kind="adapters-on-other-nodes",
        action=Action.KEEP,
        where="node",
        found=f"GPUs on NUMA node {min(bare)} have none of the {len(facts.nics)} adapters on their node",
        next="compare with a node of the same kind; if it differs, an adapter is in the wrong slot or is missing",
        source="chosen here: boards are built either way",
    )


def _redirected(facts: PciFacts) -> Iterable[NodeFinding]:
    """Ports of a switch that send traffic between GPU and adapter up to the root, on bare metal."""
    if facts.virtual is not False:
        return
    ports = [
        facts.bridges[device.above[fork]]
        for gpu in facts.gpus
        for nic in facts.nics
        if (fork := _fork(gpu.above, nic.above)) is not None
        for device in (gpu, nic)
        if device.above[fork] in facts.bridges
    ]
    wrong = [port for port in dict.fromkeys(ports) if _redirects(port.control)]
    if wrong:
        yield NodeFinding(
            kind="acs-redirects",
            action=Action.RESTART,
            where=f"{wrong[0].address}" + (f" and {len(wrong) - 1} more ports" if len(wrong) > 1 else ""),
            found="ACS sends what a GPU and an adapter on one switch exchange through the root port",
            next="switch ACS off in the BIOS or with setpci, unless virtual machines use these devices",
            source=_NCCL,
            evidence=tuple(f"{port.address}: ACS control 0x{port.control or 0:04x}" for port in wrong),
        )


def _fork(one: Sequence[str], other: Sequence[str]) -> int | None:
    """Where two devices on one switch part: the place of its downstream ports; None if they share no switch."""
    shared = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    )
    # A root port and an upstream port at least.
    return shared if shared > 1 and shared < min(len(one), len(other)) else None


def _redirects(control: int | None) -> bool:
    """Direct translated requests take the short way in spite of it, where ATS is on."""
    if control is None or control & DIRECT_TRANSLATED:
        return False
    return bool(control & (REQUEST_REDIRECT | COMPLETION_REDIRECT))


def _errors(facts: PciFacts) -> Iterable[NodeFinding]:
    for device in (*facts.gpus, *facts.nics, *facts.bridges.values()):
        if device.fatal:
            yield NodeFinding(
                kind="aer-fatal",
                # The kernel resets the link after one; the total does not tell when. A new one is in the kernel log.
                action=Action.KEEP,
                where=device_name(device, facts),
                found=f"{device.fatal} fatal PCIe errors since boot",
                next="find its time in dmesg -T (PCIe Bus Error); if a job failed then, or if it grows, drain the node",
                source=f"{_AER}; Linux, pcieaer-howto: the kernel resets the link after a fatal error",
            )
        elif device.nonfatal:
            yield NodeFinding(
                kind="aer-nonfatal",
                action=Action.KEEP,
                where=device_name(device, facts),
                found=f"{device.nonfatal} non-fatal PCIe errors since boot",
                next="read it again after an hour of work; if it grows, drain the node",
                source=f"{_AER}; chosen here: some devices report unsupported requests at their start",
            )
        elif device.corrected:
            yield NodeFinding(
                kind="aer-corrected",
                action=Action.KEEP,
                where=device_name(device, facts),
                found=f"{device.corrected} corrected PCIe errors since boot",
                next="read it again after an hour of work; a count that grows by the minute points to the slot",
                source=_AER,
            )


def _not_seen(facts: PciFacts) -> Iterable[NotRead]:
    yield from facts.unread
    alone = [one.address for one in (*facts.gpus, *facts.nics) if not links_above(one, facts.bridges)]
    if alone:
        yield NotRead(
            f"bridges above {_listed(alone)}",
            "the tree does not show them, as in virtual machines; their links are not judged",
            matters=False,
        )
    blind = [one.address for one in facts.gpus if one.width is None]
    if blind:
        yield NotRead(
            f"PCIe width of {_listed(blind)}", "the kernel does not know it", matters=facts.virtual is False
        )
    if facts.nodes > 1:
        homeless = [one.address for one in facts.gpus if one.node is None]
        if homeless:
            yield NotRead(
                f"NUMA node of {_listed(homeless)}",
                "the firmware does not say it (numa_node is -1); binding is not judged",
                matters=False,
            )
    bridges = [one for one in facts.bridges.values() if one.kind.startswith("0x0604")]
    if bridges and not facts.virtual and all(one.control is None for one in bridges):
        yield NotRead(
            "ACS control of the bridges", "it takes root to read it, or they have none", matters=False
        )
    devices = (*facts.gpus, *facts.nics)
    if "pci=noaer" in facts.command_line or all(one.fatal is None for one in devices):
        yield NotRead("PCIe errors (AER)", "this kernel does not count them for these devices", matters=False)


def _settings(facts: PciFacts) -> Mapping[str, str]:
    links = [f"{gpu.most_speed:g} GT/s x{gpu.most_width}" for gpu in facts.gpus if gpu.most_speed]
    nodes = [str(gpu.node) for gpu in facts.gpus if gpu.node is not None]
    found = {"PCIe of the GPUs, highest": _counted(links), "NUMA nodes of the GPUs": _counted(nodes)}
    found["PCI and IOMMU on the kernel command line"] = " ".join(facts.command_line) or "nothing"
    return {name: value for name, value in found.items() if value}


def _facts(facts: PciFacts) -> dict[str, object]:
    return {
        "devices": [
            {"address": one.address, "gpu": one.is_gpu, "driver": one.driver, "node": one.node}
            | {"link": link_text(one), "above": list(one.above), "iommu_group": one.group}
            for one in (*facts.gpus, *facts.nics)
        ],
        "virtual": facts.virtual,
    }


def _listed(addresses: Sequence[str]) -> str:
    return addresses[0] + (f" and {len(addresses) - 1} more" if len(addresses) > 1 else "")


def _counted(values: Sequence[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    return ", ".join(f"{value} × {count}" for value, count in sorted(counts.items()))


def _ranges(cpus: frozenset[int]) -> str:
    """As `taskset -c` takes them: `0-55,112-167`."""
    spans: list[list[int]] = []
    for one in sorted(cpus):
        if spans and one == spans[-1][1] + 1:
            spans[-1][1] = one
        else:
            spans.append([one, one])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


GROUP = HostGroup("pci", read_pci, judge_pci)
