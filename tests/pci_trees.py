"""Trees of /sys and /proc as hosts of several kinds show them, written anew."""

from dataclasses import dataclass, field
from pathlib import Path

GEN1, GEN3, GEN4, GEN5 = "2.5 GT/s PCIe", "8.0 GT/s PCIe", "16.0 GT/s PCIe", "32.0 GT/s PCIe"
SERVER_GPU, DESKTOP_GPU, ETHERNET, INFINIBAND, BRIDGE = (
    "0x030200",
    "0x030000",
    "0x020000",
    "0x020700",
    "0x060400",
)


def config(control: int | None) -> bytes:
    """A configuration space of 4,096 bytes: an AER capability, and behind it one for ACS."""
    space = bytearray(4096)
    following = 0 if control is None else 0x148
    space[0x100:0x104] = (0x0001 | 1 << 16 | following << 20).to_bytes(4, "little")
    if control is not None:
        space[0x148:0x14C] = (0x000D | 1 << 16).to_bytes(4, "little")
        space[0x14E:0x150] = control.to_bytes(2, "little")
    return bytes(space)


@dataclass
class PciTree:
    """A tree that is written below `root`."""

    root: Path
    cpus: dict[int, str] = field(default_factory=lambda: {0: "0-55,112-167", 1: "56-111,168-223"})

    def __post_init__(self) -> None:
        nodes = sorted(self.cpus)
        self.file("/sys/devices/system/cpu/online", "0-223" if len(nodes) > 1 else self.cpus[nodes[0]])
        self.file(
            "/sys/devices/system/node/has_cpu", f"{nodes[0]}-{nodes[-1]}" if len(nodes) > 1 else str(nodes[0])
        )
        self.allow("0-223" if len(nodes) > 1 else self.cpus[nodes[0]])
        self.machine(virtual=False)
        self.file("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/md0 iommu=pt")

    def file(self, path: str, text: str | bytes) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())

    def allow(self, cpus: str) -> None:
        """What the judged process may use."""
        self.file("/proc/self/status", f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\n")

    def machine(self, *, virtual: bool) -> None:
        flags = "fpu vme sse2 avx512f" + (" hypervisor" if virtual else "")
        self.file("/proc/cpuinfo", f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\n")

    def set(self, address: str, **values: str | bytes) -> None:
        """Change files of a device."""
        for name, value in values.items():
            self.file(f"/sys/bus/pci/devices/{address}/{name}", value)

    def device(
        self,
        *path: str,
        kind: str,
        speed: tuple[str, str] = (GEN5, GEN5),
        width: tuple[int, int] = (16, 16),
        node: int = 0,
        vendor: str = "0x10de",
        driver: str | None = None,
        control: int | None = None,
        errors: tuple[int, int, int] | None = (0, 0, 0),
    ) -> str:
        """A function below the bridges of its path, of which the last part is its address."""
        address = path[-1]
        real = "/".join((f"sys/devices/pci{path[0][:7]}", *path))
        link = self.root / "sys/bus/pci/devices" / address
        link.parent.mkdir(parents=True, exist_ok=True)
        (self.root / real).mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../{real.removeprefix('sys/')}")
        files: dict[str, str | bytes] = {
            "class": kind,
            "vendor": vendor,
            "current_link_speed": speed[0],
            "max_link_speed": speed[1],
            "current_link_width": str(width[0]),
            "max_link_width": str(width[1]),
            "numa_node": str(node),
            "local_cpulist": self.cpus.get(node, ",".join(self.cpus.values())),
            "config": config(control),
        }
        if errors is not None:
            names = ("correctable", "nonfatal", "fatal"), ("COR", "NONFATAL", "FATAL")
            for name, total, count in zip(*names, errors, strict=True):
                files[f"aer_dev_{name}"] = f"Undefined 0\nDLP {count}\nTOTAL_ERR_{total} {count}"
        self.set(address, **files)
        if driver:
            (link.resolve() / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")
        return address


def switched(root: Path, *, gen: str = GEN5, nics: bool = True, control: int | None = 0) -> PciTree:
    """Eight GPUs on two sockets, each with an adapter on a switch of its own, as in an HGX H100 or B200."""
    tree = PciTree(root)
    for index in range(8):
        node, bus = index // 4, 0x10 + 0x10 * index
        top, up = f"0000:{bus:02x}:01.0", f"0000:{bus + 1:02x}:00.0"
        tree.device(top, kind=BRIDGE, vendor="0x8086", node=node, speed=(gen, gen))
        tree.device(top, up, kind=BRIDGE, vendor="0x1000", node=node, speed=(gen, gen))
        for slot, kind in enumerate((SERVER_GPU, INFINIBAND)[: 1 + nics]):
            port, end = f"0000:{bus + 2:02x}:0{slot}.0", f"0000:{bus + 3 + slot:02x}:00.0"
            gpu = slot == 0
            # GPUs are idle.
            now = GEN1 if gpu else gen
            tree.device(
                top, up, port, kind=BRIDGE, vendor="0x1000", node=node, speed=(now, gen), control=control
            )
            tree.device(
                top,
                up,
                port,
                end,
                kind=kind,
                node=node,
                speed=(now, gen),
                vendor="0x10de" if gpu else "0x15b3",
                driver="nvidia" if gpu else "mlx5_core",
            )
    return tree


def hgx_b200(root: Path) -> PciTree:
    """With management adapters of the baseboard, which show as mlx5, have few lanes, and slots that promise more."""
    tree = switched(root)
    for index in range(4):
        top, end = f"0000:a{index}:01.0", f"0000:b{index}:00.0"
        tree.device(top, kind=BRIDGE, vendor="0x8086", node=1, width=(2, 16), speed=(GEN4, GEN4))
        tree.device(
            top,
            end,
            kind=INFINIBAND,
            vendor="0x15b3",
            node=1,
            width=(2, 16),
            speed=(GEN4, GEN5),
            driver="mlx5_core",
        )
    tree.device("0000:c0:02.0", kind=BRIDGE, vendor="0x8086", width=(8, 16), speed=(GEN3, GEN5))
    tree.device(
        "0000:c0:02.0",
        "0000:c1:00.0",
        kind=ETHERNET,
        vendor="0x8086",
        width=(8, 8),
        speed=(GEN3, GEN3),
        driver="ice",
    )
    return tree


def cards(root: Path) -> PciTree:
    """Four L40S below root ports of two sockets, with one adapter."""
    tree = PciTree(root)
    for index in range(4):
        top, end = f"0000:{0x20 + 0x10 * index:02x}:01.0", f"0000:{0x21 + 0x10 * index:02x}:00.0"
        tree.device(top, kind=BRIDGE, vendor="0x8086", node=index // 2, speed=(GEN1, GEN5))
        tree.device(top, end, kind=SERVER_GPU, node=index // 2, speed=(GEN1, GEN4), driver="nvidia")
    tree.device("0000:60:01.0", kind=BRIDGE, vendor="0x8086", speed=(GEN4, GEN5))
    tree.device(
        "0000:60:01.0", "0000:61:00.0", kind=ETHERNET, vendor="0x15b3", speed=(GEN4, GEN4), driver="mlx5_core"
    )
    return tree


def desktop(root: Path) -> PciTree:
    """One RTX 4090 in a slot with eight lanes; one NUMA node, which the firmware does not name."""
    tree = PciTree(root, {0: "0-31"})
    tree.device("0000:00:01.0", kind=BRIDGE, vendor="0x8086", node=-1, width=(8, 8), speed=(GEN1, GEN5))
    tree.device(
        "0000:00:01.0",
        "0000:01:00.0",
        kind=DESKTOP_GPU,
        node=-1,
        width=(8, 16),
        speed=(GEN1, GEN4),
        driver="nvidia",
    )
    tree.device("0000:00:01.0", "0000:01:00.1", kind="0x040300", node=-1, width=(8, 16))
    return tree


def laptop(root: Path) -> PciTree:
    """A GPU that switches lanes off while it is idle."""
    tree = PciTree(root, {0: "0-15"})
    tree.device("0000:00:01.0", kind=BRIDGE, vendor="0x8086", node=-1, width=(4, 16), speed=(GEN1, GEN5))
    tree.device(
        "0000:00:01.0",
        "0000:01:00.0",
        kind=DESKTOP_GPU,
        node=-1,
        width=(4, 16),
        speed=(GEN1, GEN4),
        driver="nvidia",
    )
    return tree


def one_gpu_vm(root: Path) -> PciTree:
    """A virtual machine that hides the bridges: the GPU is a device of the root bus."""
    tree = PciTree(root, {0: "0-15"})
    tree.machine(virtual=True)
    tree.device("0000:00:05.0", kind=SERVER_GPU, node=-1, driver="nvidia", errors=None)
    tree.device("0000:00:03.0", kind=ETHERNET, vendor="0x1af4", node=-1, driver="virtio-pci", errors=None)
    return tree


def aws_p5(root: Path) -> PciTree:
    """Eight H100 and EFA adapters in a virtual machine of two NUMA nodes, with links that show what they like."""
    tree = PciTree(root)
    tree.machine(virtual=True)
    for index in range(8):
        top, bus = f"0000:{0x40 + 0x10 * index:02x}:01.0", 0x41 + 0x10 * index
        tree.device(top, kind=BRIDGE, vendor="0x1d0f", node=index // 4, width=(8, 16))
        tree.device(
            top, f"0000:{bus:02x}:00.0", kind=SERVER_GPU, node=index // 4, width=(8, 16), driver="nvidia"
        )
        tree.device(
            f"0000:{bus + 1:02x}:00.0",
            kind=ETHERNET,
            vendor="0x1d0f",
            node=index // 4,
            width=(0, 0),
            driver="efa",
        )
    return tree
