"""The PCI tree as /sys shows it: GPUs and network adapters, and every bridge up to the root port."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.node.findings import NotRead
from runner.node.host.pci_config import access_control
from runner.node.host.tree import HostTree

_DEVICES = "/sys/bus/pci/devices"
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NVIDIA = "0x10de"
# VGA controllers (cards for desktops and laptops) and 3D controllers (GPUs for servers).
DISPLAY = "0x0300"
_GPU_CLASSES, _NETWORK = (DISPLAY, "0x0302"), "0x02"
# Adapters for collectives between nodes, by driver; others are for storage and management.
_FAST_DRIVERS = frozenset({"mlx5_core", "efa", "bnxt_en", "irdma", "ionic", "gve"})
_LARGEST_WIDTH, _MOST_DEVICES = 32, 4096


@dataclass(frozen=True, kw_only=True)
class PciDevice:
    """One function on the bus; None is unknown.

    Attributes:
        address: `0000:1b:00.0`.
        above: the bridges from the root port down to it.
        speed, most_speed: GT/s per lane; width, most_width: lanes. Of a bridge, of the link below it.
        node: its NUMA node; None also where the kernel says -1.
        cpus: the CPUs of that node.
        fatal, nonfatal, corrected: errors since boot that this function reported (AER).
        control: the ACS control register; None if it cannot be seen.
        group: its IOMMU group.
    """

    address: str
    vendor: str = ""
    kind: str = ""
    driver: str | None = None
    above: tuple[str, ...] = ()
    speed: float | None = None
    most_speed: float | None = None
    width: int | None = None
    most_width: int | None = None
    node: int | None = None
    cpus: frozenset[int] = frozenset()
    fatal: int | None = None
    nonfatal: int | None = None
    corrected: int | None = None
    control: int | None = None
    group: str | None = None
    removable: bool = False

    @property
    def is_gpu(self) -> bool:
        """An NVIDIA GPU, not one that was given to a virtual machine."""
        return self.vendor == _NVIDIA and self.kind.startswith(_GPU_CLASSES) and self.driver != "vfio-pci"

    @property
    def is_fast_nic(self) -> bool:
        """A network adapter whose driver is one for RDMA."""
        return self.kind.startswith(_NETWORK) and self.driver in _FAST_DRIVERS


@dataclass(frozen=True, kw_only=True)
class PciFacts:
    """The GPUs, the adapters, and the bridges above them by address.

    Attributes:
        allowed: CPUs that the judged process may use; online: those of the host. Empty if unknown.
        own_gpus: addresses of the GPUs that the judged process has open, or sees; empty if unknown.
        nodes: number of NUMA nodes with CPUs.
        virtual: this is a virtual machine; None if that cannot be seen.
        command_line: words about PCI and the IOMMU.
        unread: files of these devices that refuse to be read.
    """

    gpus: tuple[PciDevice, ...] = ()
    nics: tuple[PciDevice, ...] = ()
    bridges: Mapping[str, PciDevice]
    allowed: frozenset[int] = frozenset()
    online: frozenset[int] = frozenset()
    own_gpus: frozenset[str] = frozenset()
    nodes: int = 0
    virtual: bool | None = None
    command_line: tuple[str, ...] = ()
    unread: tuple[NotRead, ...] = ()


def read_pci(tree: HostTree) -> PciFacts:
    """Read them. Only GPUs, network adapters and what is above these are read in full."""
    found = []
    for address in tree.names(_DEVICES)[:_MOST_DEVICES]:
        if not _ADDRESS.fullmatch(address):
            continue
        folder = f"{_DEVICES}/{address}"
        kind, vendor = tree.text(f"{folder}/class") or "", tree.text(f"{folder}/vendor") or ""
        wanted = (vendor == _NVIDIA and kind.startswith(_GPU_CLASSES)) or kind.startswith(_NETWORK)
        # Virtual functions have no link of their own.
        if wanted and tree.link(f"{folder}/physfn") is None:
            found.append(_device(tree, address, vendor, kind))
    kept = [one for one in found if one.is_gpu or one.is_fast_nic]
    above = dict.fromkeys(bridge for one in kept for bridge in one.above)
    bridges = {
        address: _device(
            tree,
            address,
            tree.text(f"{_DEVICES}/{address}/vendor") or "",
            tree.text(f"{_DEVICES}/{address}/class") or "",
        )
        for address in above
    }
    status = tree.text(f"{tree.process}/status") or ""
    allowed = re.search(r"^Cpus_allowed_list:\s*([0-9,-]+)$", status, re.MULTILINE)
    return PciFacts(
        gpus=tuple(one for one in kept if one.is_gpu),
        nics=tuple(one for one in kept if one.is_fast_nic),
        bridges=bridges,
        allowed=_numbers(allowed[1]) if allowed else frozenset(),
        online=_numbers(tree.text("/sys/devices/system/cpu/online") or ""),
        own_gpus=frozenset(_own_gpus(tree)),
        nodes=len(_numbers(tree.text("/sys/devices/system/node/has_cpu") or "")),
        virtual=_is_virtual(tree),
        command_line=tuple(
            word
            for word in (tree.text("/proc/cmdline") or "").split()
            if re.match(r"(iommu|intel_iommu|amd_iommu|pci|pcie_aspm|pcie_acs_override)[=.]", word)
        ),
        unread=tuple(
            replace(one, matters=False)
            for one in tree.not_read
            if one.what.removeprefix(f"{_DEVICES}/").partition("/")[0]
            in {*above, *(dev.address for dev in kept)}
        ),
    )


def _device(tree: HostTree, address: str, vendor: str, kind: str) -> PciDevice:
    folder = f"{_DEVICES}/{address}"
    # The path says which bridges it hangs on: ../../../devices/pci0000:16/0000:16:01.0/0000:17:00.0
    path = [part for part in (tree.link(folder) or "").split("/") if _ADDRESS.fullmatch(part)]
    node = tree.number(f"{folder}/numa_node")
    return PciDevice(
        address=address,
        vendor=vendor,
        kind=kind,
        driver=_last(tree.link(f"{folder}/driver")),
        above=tuple(path[:-1]) if path[-1:] == [address] else (),
        speed=_speed(tree.text(f"{folder}/current_link_speed")),
        most_speed=_speed(tree.text(f"{folder}/max_link_speed")),
        width=_width(tree.number(f"{folder}/current_link_width")),
        most_width=_width(tree.number(f"{folder}/max_link_width")),
        node=None if node is None or node < 0 else node,
        cpus=_numbers(tree.text(f"{folder}/local_cpulist") or ""),
        fatal=_total(tree.text(f"{folder}/aer_dev_fatal")),
        nonfatal=_total(tree.text(f"{folder}/aer_dev_nonfatal")),
        corrected=_total(tree.text(f"{folder}/aer_dev_correctable")),
        control=access_control(tree.data(f"{folder}/config") or b"") if kind.startswith("0x0604") else None,
        group=_last(tree.link(f"{folder}/iommu_group")),
        removable=tree.text(f"{folder}/removable") == "removable",
    )


def _own_gpus(tree: HostTree) -> Iterator[str]:
    """The GPUs of the judged process: those that it has open, else those whose device files it sees."""
    opened = set()
    if tree.pid is not None or tree.root is not None:
        for descriptor in tree.names(f"{tree.process}/fd"):
            link = re.fullmatch(r"/dev/nvidia(\d{1,4})", tree.link(f"{tree.process}/fd/{descriptor}") or "")
            opened |= {link[1]} if link else set()
    for address in tree.names("/proc/driver/nvidia/gpus"):
        told = tree.text(f"/proc/driver/nvidia/gpus/{address}/information") or ""
        minor = re.search(r"^Device Minor:\s*(\d{1,4})\s*$", told, re.MULTILINE)
        if minor is None or not _ADDRESS.fullmatch(address):
            continue
        if minor[1] in opened or (not opened and tree.exists(f"{tree.process}/root/dev/nvidia{minor[1]}")):
            yield address


def _is_virtual(tree: HostTree) -> bool | None:
    """A hypervisor marks itself in the CPU's flags (x86). Not known where there are no flags."""
    flags = re.search(r"^flags\s*:(.*)$", tree.text("/proc/cpuinfo") or "", re.MULTILINE)
    return None if flags is None else "hypervisor" in flags[1].split()


def _speed(text: str | None) -> float | None:
    """`32.0 GT/s PCIe`, before Linux 5.5 `32 GT/s`; `Unknown` where there is no link."""
    found = re.match(r"(\d{1,3}(?:\.\d)?) GT/s", text or "")
    return float(found[1]) if found else None


def _width(lanes: int | None) -> int | None:
    """0 and 255 stand for unknown."""
    return lanes if lanes is not None and 0 < lanes <= _LARGEST_WIDTH else None


def _total(text: str | None) -> int | None:
    found = re.search(r"^TOTAL_ERR_[A-Z]{1,16} (\d{1,18})$", text or "", re.MULTILINE)
    return int(found[1]) if found else None


def _numbers(text: str) -> frozenset[int]:
    """The kernel's list of CPUs: `0-55,112-167`; empty for anything else."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        span = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if span is None:
            return frozenset()
        found.update(range(int(span[1]), int(span[2] or span[1]) + 1))
    return frozenset(found)


def _last(link: str | None) -> str | None:
    return None if link is None else link.rpartition("/")[2]
