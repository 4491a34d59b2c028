"""Reads the RDMA ports of a host, what is needed for GPUDirect RDMA, and the models of its GPUs.

Management functions are told from network ports before any counter is read: the kernel logs an error for each read of
a counter of such a function (`ACCESS_REG(0x805) … failed`; prometheus/node_exporter #3434, leptonai/gpud #1164).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from runner.base.plain import one_line
from runner.node.findings import NotRead
from runner.node.host.tree import HostTree

_CLASS = "/sys/class/infiniband"
COUNTERS = ("link_downed", "link_error_recovery", "symbol_error", "port_rcv_errors", "port_xmit_wait")
HARDWARE_COUNTERS = ("out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "roce_adp_retrans")
# Where NCCL looks for a module that lets NICs read GPU memory (NCCL 2.30, src/transport/net_ib/gdr.cc).
PEER_MODULE = "/sys/module/nvidia_peermem/version"
PEER_CLIENTS = ("nv_mem", "nv_mem_nc")
_AMAZON, _MELLANOX = "0x1d0f", "0x15b3"
# PCI class of an InfiniBand controller.
_INFINIBAND_CLASS = "0x0207"
# siderolabs/extensions #893 and #895: four mlx5 devices of an HGX or DGX B200 manage its NVSwitches.
MOST_MANAGEMENT = 4
# NVIDIA's boards before Blackwell: their NVSwitches are PCI devices of their own, not mlx5.
_BEFORE_BLACKWELL = re.compile(
    r"\b(?:P100|V100|T4|A10|A16|A30|A40|A100|A800|L4|L20|L40S?|H20|H100|H200|H800)\b"
)
_GIDS = 16
_MOST_DEVICES = 64
# Records hold integers of 64 bits.
_LARGEST_COUNT = 2**63 - 1
_NO_GID = re.compile(r"[0:]*")


class Role(StrEnum):
    """What a port is for.

    `network`: data between nodes. `management`: of the NVSwitches, by its vital product data. `unclear`: an InfiniBand
    port whose vital product data this user cannot read, on a host that may have such management functions.
    """

    NETWORK = "network"
    MANAGEMENT = "management"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True)
class RdmaPort:
    """One port, as sysfs describes it. None and empty text: not there, or not readable.

    Attributes:
        state, physical: `ACTIVE`, `LinkUp`; without the number before it.
        rate: as the kernel writes it: `400 Gb/sec (4X NDR)`.
        link_layer: `InfiniBand`, `Ethernet` (RoCE), or `Unknown` (EFA), as Linux, infiniband/core/sysfs.c, writes it.
        board: the board id; else the type of the adapter.
        netdev, operstate, carrier_changes: of its network interface.
        bonded: it is a bond, or belongs to one.
        roce_v2: whether an Ethernet port has an address of RoCE v2; None for others, or if not readable.
        counters: those of `COUNTERS` and `HARDWARE_COUNTERS` that are there, since the driver was loaded.
    """

    device: str
    port: int
    state: str = ""
    physical: str = ""
    rate: str = ""
    link_layer: str = ""
    board: str = ""
    firmware: str = ""
    role: Role = Role.NETWORK
    efa: bool = False
    netdev: str | None = None
    operstate: str | None = None
    carrier_changes: int | None = None
    bonded: bool = False
    roce_v2: bool | None = None
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """`mlx5_2 port 1`."""
        return f"{self.device} port {self.port}"

    @property
    def gbps(self) -> float | None:
        """Its rate in Gb/s."""
        found = re.match(r"(\d{1,5}(?:\.\d{1,3})?) Gb/sec", self.rate)
        return float(found[1]) if found else None

    @property
    def active(self) -> bool:
        """Whether it can carry data."""
        return self.state == "ACTIVE"

    @property
    def kind(self) -> tuple[str, str, bool]:
        """What ports must share to be compared: board, link layer, and whether they are bonded."""
        return self.board, self.link_layer, self.bonded


@dataclass(frozen=True, kw_only=True)
class RdmaFacts:
    """The RDMA ports of a host.

    Attributes:
        controllers: InfiniBand controllers of NVIDIA on PCI, with or without a driver.
        gpus: models of the GPUs, by the driver's /proc files; empty if unknown.
        driver: the first line of the NVIDIA driver's version file; None without it.
        kernel: the release, such as `6.8.0-90-generic`.
        peer_module: whether nvidia_peermem is loaded, with its version.
        peer_clients: those of `PEER_CLIENTS` that are there.
        verbs: whether a device file of verbs exists; None if /dev was not captured.
        not_read: what exists and could not be read.
    """

    ports: tuple[RdmaPort, ...]
    controllers: int = 0
    gpus: tuple[str, ...] = ()
    driver: str | None = None
    kernel: str | None = None
    peer_module: bool = False
    peer_clients: tuple[str, ...] = ()
    verbs: bool | None = None
    not_read: tuple[NotRead, ...] = ()


def read_rdma(tree: HostTree) -> RdmaFacts:
    """Read the RDMA ports and what belongs to them. Raises nothing for what is missing."""
    gpus = _gpus(tree)
    ports = [port for device in tree.names(_CLASS)[:_MOST_DEVICES] for port in _ports(tree, device, gpus)]
    sizes = Counter(port.board for port in ports)
    unclear = {
        port.board for port in ports if port.role is Role.UNCLEAR and sizes[port.board] <= MOST_MANAGEMENT
    }
    # More ports of one board than there are management functions: they are network ports.
    roles = [
        replace(port, role=Role.NETWORK) if port.role is Role.UNCLEAR and port.board not in unclear else port
        for port in ports
    ]
    counted = [
        replace(port, counters=_counters(tree, port)) if port.role is Role.NETWORK else port for port in roles
    ]
    return RdmaFacts(
        ports=tuple(counted),
        controllers=0 if ports else _controllers(tree),
        gpus=gpus,
        driver=_first_line(_try(tree, "/proc/driver/nvidia/version")),
        kernel=_word(tree, "/proc/sys/kernel/osrelease") or None,
        peer_module=tree.exists(PEER_MODULE),
        peer_clients=tuple(
            name for name in PEER_CLIENTS if tree.exists(f"/sys/kernel/mm/memory_peers/{name}/version")
        ),
        verbs=_verbs(tree),
        not_read=tuple(tree.not_read),
    )


def _ports(tree: HostTree, device: str, gpus: Sequence[str]) -> list[RdmaPort]:
    of = f"{_CLASS}/{device}"
    vendor = _word(tree, f"{of}/device/vendor")
    board = _word(tree, f"{of}/board_id") or _word(tree, f"{of}/hca_type")
    found = []
    for name in tree.names(f"{of}/ports"):
        if not name.isascii() or not name.isdigit():
            continue
        at = f"{of}/ports/{name}"
        layer = _word(tree, f"{at}/link_layer")
        netdev = _netdev(tree, of, at)
        net = f"/sys/class/net/{netdev}"
        ethernet = layer == "Ethernet"
        found.append(
            RdmaPort(
                device=one_line(device),
                port=int(name[:9]),
                state=_meaning(_word(tree, f"{at}/state")),
                physical=_meaning(_word(tree, f"{at}/phys_state")),
                rate=_word(tree, f"{at}/rate"),
                link_layer=layer,
                board=board,
                firmware=_word(tree, f"{of}/fw_ver"),
                role=_role(tree, of, layer, gpus),
                efa=vendor == _AMAZON or (layer == "Unknown" and device.startswith(("efa_", "rdmap"))),
                netdev=netdev,
                operstate=_word(tree, f"{net}/operstate") or None if netdev else None,
                carrier_changes=_count(_try(tree, f"{net}/carrier_changes")) if netdev else None,
                bonded="bond" in device or bool(netdev and tree.link(f"{net}/master")),
                roce_v2=_roce_v2(tree, at) if ethernet else None,
            )
        )
    return found


def _role(tree: HostTree, of: str, layer: str, gpus: Sequence[str]) -> Role:
    # Management functions speak InfiniBand; reading vital product data takes a while on other adapters.
    if layer != "InfiniBand":
        return Role.NETWORK
    before = len(tree.not_read)
    data = tree.text(f"{of}/device/vpd")
    refused = len(tree.not_read) > before
    del tree.not_read[before:]
    if data is not None:
        # As NVIDIA's nvidia-fabricmanager-start.sh finds them: the keyword SMDL=SW_MNG.
        return Role.MANAGEMENT if "SW_MNG" in data else Role.NETWORK
    older = bool(gpus) and all(_BEFORE_BLACKWELL.search(gpu) for gpu in gpus)
    return Role.UNCLEAR if refused and not older else Role.NETWORK


def _netdev(tree: HostTree, of: str, at: str) -> str | None:
    # Of a bond the first is the interface of the bond itself.
    named = _word(tree, f"{at}/gid_attrs/ndevs/0")
    names = [named] if named else list(tree.names(f"{of}/device/net"))
    return next((name for name in names if "/" not in name and name not in {".", ".."}), None)


def _roce_v2(tree: HostTree, at: str) -> bool | None:
    used = [place for place in range(_GIDS) if not _NO_GID.fullmatch(_word(tree, f"{at}/gids/{place}"))]
    types = [_word(tree, f"{at}/gid_attrs/types/{place}") for place in used]
    return None if not any(types) else any(one == "RoCE v2" for one in types)


def _counters(tree: HostTree, port: RdmaPort) -> dict[str, int]:
    at = f"{_CLASS}/{port.device}/ports/{port.port}"
    places = {name: f"{at}/counters/{name}" for name in COUNTERS}
    places |= {name: f"{at}/hw_counters/{name}" for name in HARDWARE_COUNTERS}
    found = {name: _count(_try(tree, path)) for name, path in places.items()}
    return {name: value for name, value in found.items() if value is not None}


def _gpus(tree: HostTree) -> tuple[str, ...]:
    folder = "/proc/driver/nvidia/gpus"
    texts = [_try(tree, f"{folder}/{name}/information") or "" for name in tree.names(folder)[:_MOST_DEVICES]]
    found = [re.search(r"^Model:\s*([^\n]{1,100})", text, re.MULTILINE) for text in texts]
    return tuple(one_line(one[1]) for one in found if one)


def _controllers(tree: HostTree) -> int:
    devices = "/sys/bus/pci/devices"
    return sum(
        _word(tree, f"{devices}/{name}/class").startswith(_INFINIBAND_CLASS)
        and _word(tree, f"{devices}/{name}/vendor") == _MELLANOX
        for name in tree.names(devices)
    )


def _verbs(tree: HostTree) -> bool | None:
    if not tree.exists("/dev"):
        return None
    return any(name.startswith("uverbs") for name in tree.names("/dev/infiniband"))


def _try(tree: HostTree, path: str) -> str | None:
    """The text of a file that many hosts refuse to read; that is no gap of the verdict."""
    before = len(tree.not_read)
    text = tree.text(path)
    del tree.not_read[before:]
    return text


def _word(tree: HostTree, path: str) -> str:
    return one_line(_try(tree, path) or "")[:100]


def _first_line(text: str | None) -> str | None:
    return one_line(text.partition("\n")[0])[:200] if text else None


def _meaning(text: str) -> str:
    """`ACTIVE` of `4: ACTIVE`."""
    return text.partition(":")[2].strip() or text


def _count(text: str | None) -> int | None:
    if not text or not re.fullmatch(r"[0-9]{1,20}", text.strip()):
        return None
    # All bits set stand for a counter that the device does not have.
    return value if (value := int(text)) <= _LARGEST_COUNT else None
