"""How NCCL reaches other nodes, from its debug log. Pure but for `read_network`.

Formats: NCCL 2.30, src/transport/net.cc (`Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA`),
src/graph/topo.cc (`NET/IB : GPU Direct RDMA Disabled for HCA 0 'mlx5_0'`) and src/transport/net_ib. The network's name
is that of NCCL's own transport (`IB`, `Socket`) or of a plugin (`Libfabric`, `AWS Libfabric`, `IBext_v8`). The lines
about HCAs need the subsystem NET; those about channels come with INIT.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_MOST_BYTES = 16 << 20
# What a name may be: NCCL's own, or a plugin's, with single spaces.
_NAME = r"[A-Za-z][\w.-]{0,30}(?: [\w.-]{1,30}){0,3}"
_CHANNEL = re.compile(
    r"NCCL INFO (?:Channel|Ring) \d{1,4}(?:/\d{1,4})? : (?P<source>\d{1,7})(?:\[[0-9a-fx]{1,18}\])?"
    r" -> (?P<target>\d{1,7})(?:\[[0-9a-fx]{1,18}\])? \[(?P<end>send|receive)\] via"
    rf" (?:NET|COLLNET)/(?P<name>{_NAME})/\d{{1,4}}(?:\(\d{{1,7}}\))?(?P<direct>/GDRDMA)?"
)
_HCA = re.compile(
    rf"NET/{_NAME} : GPU Direct RDMA (?P<state>Enabled|Disabled) for HCA \d{{1,4}} '(?P<hca>[^'\n]{{1,100}})'"
)
_NETWORK = re.compile(rf"NCCL INFO Using network (?P<name>{_NAME})")
_NO_DEVICE = "NET/IB : No device found"
# `with error 12, opcode 0`, then `with status=12 opcode=0 …`, and since 2.30 `with status=IBV_WC_RETRY_EXC_ERR(12)`.
_COMPLETION = re.compile(
    r"NET/IB(?:/GIN)? ?: Got completion from peer \S{1,100} with"
    r" (?:status=(?:[A-Z_]{1,40}\()?|error )(?P<status>\d{1,3})\b(?:.{0,400}? hca (?P<hca>\S{1,64}))?"
)
# What a completion means: ibv_wc_status of libibverbs.
MEANINGS: Mapping[int, str] = {
    4: "local protection error: the NIC may not access the memory; ACS, IOMMU or GPUDirect",
    5: "flushed, after another error of the same queue pair: look for the first error",
    9: "remote invalid request",
    10: "remote access error: the other side does not allow this access; a wrong device may have been chosen",
    12: "no answer: link, switch, address (GID), firewall, or a peer that died",
    13: "the receiver was not ready",
}
_EVENT = re.compile(
    r"NET/IB ?: (?P<hca>[\w.-]{1,64}):\d{1,3} (?:Got (?:non-fatal )?async(?: fatal)? event"
    r"|async fatal event(?: on (?:QP|CQ|SRQ) \([^)]{1,40}\))?) ?: (?P<event>[^\n]{1,100})"
)
# Events that are no faults: the subnet manager came back, or a link came up.
_HARMLESS = frozenset(
    {"client reregistration", "port active", "LID change", "P_Key table change", "GID table change"}
)


@dataclass(frozen=True)
class Network:
    """How the ranks that logged reach other nodes.

    Attributes:
        pairs: (sender, receiver) → network, such as `IB/GDRDMA`, `IB`, `Socket`, `Libfabric/GDRDMA`. With several for
            one pair, the one with the most channels.
        channels: connections by network.
        chosen: the names in `Using network …`.
        direct: HCA → whether GPUDirect RDMA is enabled for it.
        gdrdma: a connection uses GPUDirect RDMA at one of its ends. On boards without NVLink only receivers do, because
            NICs read GPU memory slowly there (NCCL_NET_GDR_READ): that is not a fault.
        no_device: NCCL found no InfiniBand or RoCE device.
        errors: completions with an error, as (HCA, status); the HCA is empty in old logs.
        events: asynchronous events that are faults, as (HCA, event).
    """

    pairs: Mapping[tuple[int, int], str] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    direct: Mapping[str, bool] = field(default_factory=dict)
    gdrdma: bool = False
    no_device: bool = False
    errors: tuple[tuple[str, int], ...] = ()
    events: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{name} × {count}" for name, count in sorted(self.channels.items())) or "unknown"

    @property
    def uses_sockets(self) -> bool:
        """Whether a connection between nodes goes through TCP."""
        return any(name.startswith("Socket") for name in self.channels)


def parse_network(text: str) -> Network:
    """Read NCCL's log. A last line without a newline is incomplete and ignored."""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    by_pair: dict[tuple[int, int], Counter[str]] = {}
    direct: dict[str, bool] = {}
    chosen: list[str] = []
    errors: list[tuple[str, int]] = []
    events: list[tuple[str, str]] = []
    gdrdma = False
    for line in lines:
        if found := _CHANNEL.search(line):
            gdrdma = gdrdma or found["direct"] is not None
            pair = int(found["source"]), int(found["target"])
            if found["end"] == "send":
                by_pair.setdefault(pair, Counter())[found["name"] + (found["direct"] or "")] += 1
        elif found := _HCA.search(line):
            # One rank for which it is disabled decides: its data takes the detour.
            direct[found["hca"]] = direct.get(found["hca"], True) and found["state"] == "Enabled"
        elif found := _NETWORK.search(line):
            chosen.append(found["name"])
        elif found := _COMPLETION.search(line):
            errors.append((found["hca"] or "", int(found["status"])))
        elif (found := _EVENT.search(line)) and (event := found["event"].strip()) not in _HARMLESS:
            events.append((found["hca"], event))
    total: Counter[str] = Counter()
    for tally in by_pair.values():
        total.update(tally)
    return Network(
        pairs={pair: tally.most_common(1)[0][0] for pair, tally in by_pair.items()},
        channels=dict(total),
        chosen=tuple(dict.fromkeys(chosen)),
        direct=direct,
        gdrdma=gdrdma,
        no_device=any(_NO_DEVICE in line for line in lines),
        errors=tuple(dict.fromkeys(errors)),
        events=tuple(dict.fromkeys(events)),
    )


def read_network(folder: Path) -> Network:
    """The same, of all ranks that logged into a folder (`nccl.log.logging_environment`)."""
    texts = []
    for path in sorted(folder.glob("nccl.*.log")):
        with path.open("rb") as file:
            texts.append(file.read(_MOST_BYTES).decode(errors="replace"))
    return parse_network("".join(texts))


def merged_networks(networks: Iterable[Network]) -> Network:
    """The networks of several nodes as one."""
    every = tuple(networks)
    channels: Counter[str] = Counter()
    direct: dict[str, bool] = {}
    for one in every:
        channels.update(one.channels)
        direct |= {hca: direct.get(hca, True) and enabled for hca, enabled in one.direct.items()}
    return Network(
        pairs={pair: name for one in every for pair, name in one.pairs.items()},
        channels=dict(channels),
        chosen=tuple(dict.fromkeys(name for one in every for name in one.chosen)),
        direct=direct,
        gdrdma=any(one.gdrdma for one in every),
        no_device=any(one.no_device for one in every),
        errors=tuple(dict.fromkeys(error for one in every for error in one.errors)),
        events=tuple(dict.fromkeys(event for one in every for event in one.events)),
    )


def network_fault(network: Network, *, rdma_ports: int) -> str | None:
    """Why the network between nodes is a fault, or None.

    Args:
        network: of the ranks of one node.
        rdma_ports: active RDMA ports of that node.
    """
    if network.errors:
        hca, status = network.errors[0]
        meaning = MEANINGS.get(status, "see ibv_wc_status of libibverbs")
        return f"NCCL got a completion with status {status}{f' on {hca}' if hca else ''} ({meaning})"
    if network.events:
        hca, event = network.events[0]
        return f"NCCL got the event {event!r} of {hca}"
    if network.uses_sockets and rdma_ports:
        why = (
            "it found no InfiniBand or RoCE device"
            if network.no_device
            else "see NCCL_NET and NCCL_IB_DISABLE"
        )
        return f"NCCL uses NET/Socket between nodes, beside {rdma_ports} active RDMA ports ({why})"
    if "IB" in network.channels and not network.gdrdma:
        refused = sorted(hca for hca, enabled in network.direct.items() if not enabled)
        which = (
            f"; disabled for {', '.join(refused)}" if refused else "; see NCCL_NET_GDR_LEVEL and the wiring"
        )
        return f"NCCL uses NET/IB without GPUDirect RDMA{which}"
    return None
