"""Whether NCCL can use GPUDirect RDMA on this host. Pure.

NCCL needs one of two things (2.30, src/transport/net_ib/gdr.cc): a peer memory module, which it finds by files in /sys,
or registration of DMA-BUF, which the kernel, the network driver and the GPU driver must all have. Whether it is used
for a pair of GPU and NIC depends on their distance too: only NCCL's log tells that.
"""

import re
from collections.abc import Sequence

from runner.node.findings import Action, NodeFinding, NodeVerdict, NotRead
from runner.node.host.rdma_reading import PEER_MODULE, RdmaFacts, RdmaPort

_SOURCE = (
    "NCCL 2.30, src/transport/net_ib/gdr.cc, for the modules; NCCL user guide, GPU troubleshooting: DMA-BUF takes a "
    "recent kernel and the open GPU driver"
)
# Chosen: RDMA libraries name this Linux for DMA-BUF, and no document of NVIDIA that was read names one. Distributions
# carry DMA-BUF back to older ones, so these are only unknown.
_DMABUF_LINUX = (5, 12)
# InfiniBand ports, or this many of Ethernet, are there for the GPUs; fewer of Ethernet may be the network of a VM.
_FEWEST_ETHERNET = 4
_MODPROBE = "modprobe nvidia-peermem (after the network driver is loaded; it ships with the GPU driver)"


def judge_gpudirect(facts: RdmaFacts, network: Sequence[RdmaPort]) -> NodeVerdict:
    """The findings on GPUDirect RDMA and on the device files; empty on a host without GPUs or active ports.

    EFA is left out: its driver registers GPU memory by ways of its own.
    """
    usable = [port for port in network if port.active and not port.efa]
    if not usable:
        return NodeVerdict()
    meant = any(port.link_layer == "InfiniBand" for port in usable) or len(usable) >= _FEWEST_ETHERNET
    action = Action.RESTART if meant else Action.KEEP
    findings = []
    if facts.verbs is False:
        findings.append(_no_verbs(len(usable), action))
    if facts.driver is None:
        return NodeVerdict(findings=tuple(findings))
    if facts.peer_module or facts.peer_clients:
        findings += _renamed(facts)
        return NodeVerdict(findings=tuple(findings))
    if "Open Kernel Module" not in facts.driver:
        findings.append(_not_available(facts.driver, action))
        return NodeVerdict(findings=tuple(findings))
    release = re.match(r"(\d{1,3})\.(\d{1,3})", facts.kernel or "")
    if release and (int(release[1]), int(release[2])) >= _DMABUF_LINUX:
        return NodeVerdict(findings=tuple(findings))
    blind = NotRead(
        "GPUDirect RDMA",
        f"no peer memory module, and whether Linux {facts.kernel or 'of unknown version'} registers DMA-BUF is not in "
        f"/sys; NCCL's log says Enabled or Disabled; {_MODPROBE}",
    )
    return NodeVerdict(findings=tuple(findings), not_read=(blind,))


def _no_verbs(ports: int, action: Action) -> NodeFinding:
    return NodeFinding(
        kind="no-verbs-device",
        action=action,
        where="this shell",
        found=f"no /dev/infiniband/uverbs*, and active RDMA ports: {ports}",
        next="start the container with --device=/dev/infiniband, or modprobe ib_uverbs on the node",
        source="NCCL then logs `NET/IB : No device found` and uses sockets",
    )


def _not_available(driver: str, action: Action) -> NodeFinding:
    return NodeFinding(
        kind="gpudirect-not-available",
        action=action,
        where="node",
        found="no peer memory module is loaded, and this GPU driver is not the open one, which DMA-BUF needs",
        next=_MODPROBE,
        source=_SOURCE,
        evidence=(f"{PEER_MODULE} is not there", driver),
    )


def _renamed(facts: RdmaFacts) -> list[NodeFinding]:
    if facts.peer_clients:
        return []
    return [
        NodeFinding(
            kind="peer-module-renamed",
            action=Action.KEEP,
            where="node",
            found="nvidia_peermem is loaded, and /sys/kernel/mm/memory_peers/nv_mem is not there",
            next="use NCCL 2.23 or newer; 2.22.3 and older look for the latter only, and disable GPUDirect RDMA",
            source="NVIDIA/nccl #1676, 2025",
        )
    ]
