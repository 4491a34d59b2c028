"""Captured trees of hosts with RDMA ports, written anew after what sysfs gives.

Shapes: ibstat of hosts with ConnectX-7 (deepseek-ai/DeepEP #303, kvcache-ai/Mooncake #1999, imbue-ai #4),
Linux drivers/infiniband/hw/efa (EFA), siderolabs/extensions #893 and #895 (management functions of a DGX B200).
"""

from collections.abc import Mapping
from pathlib import Path

NDR, HDR, EDR, SDR = "400 Gb/sec (4X NDR)", "200 Gb/sec (4X HDR)", "100 Gb/sec (4X EDR)", "10 Gb/sec (4X SDR)"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Release Build"
MANAGEMENT_VPD = "\x82\x12\0Switch management\x90 \0PN\x0d920-9B200-SMDLV0\x0bSMDL=SW_MNGRV\x01\0x"


class Captured:
    """A captured tree in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n", encoding="utf-8")

    def port(
        self,
        device: str,
        rate: str = NDR,
        *,
        state: str = "4: ACTIVE",
        physical: str = "5: LinkUp",
        layer: str = "InfiniBand",
        board: str = "MT_0000000838",
        firmware: str = "28.43.2026",
        netdev: str | None = None,
        vendor: str = "0x15b3",
        counters: Mapping[str, int] | None = None,
        port: int = 1,
    ) -> None:
        """One port of one device."""
        of = f"/sys/class/infiniband/{device}"
        at = f"{of}/ports/{port}"
        files = {"fw_ver": firmware, "hca_type": "MT4129", "device/vendor": vendor}
        files |= {"board_id": board} if board else {}
        for name, text in files.items():
            self.write(f"{of}/{name}", text)
        for name, text in {"state": state, "phys_state": physical, "rate": rate, "link_layer": layer}.items():
            self.write(f"{at}/{name}", text)
        for name, value in (counters or {}).items():
            self.write(f"{at}/counters/{name}", str(value))
        if netdev is not None:
            self.write(f"{of}/device/net/{netdev}/mtu", "4096")
            self.write(f"/sys/class/net/{netdev}/operstate", "up")

    def gpus(self, model: str, count: int = 8, driver: str = OPEN) -> None:
        """NVIDIA's driver and its GPUs."""
        self.write("/proc/driver/nvidia/version", driver)
        for number in range(count):
            place = f"/proc/driver/nvidia/gpus/0000:{number:02x}:00.0/information"
            self.write(place, f"Model: \t\t {model}\nIRQ:   \t\t 1")

    def kernel(self, release: str = "6.8.0-90-generic", *, peermem: bool = True) -> None:
        """The kernel, and the peer memory module."""
        self.write("/proc/sys/kernel/osrelease", release)
        if peermem:
            self.write("/sys/module/nvidia_peermem/version", "580.95.05")
            self.write("/sys/kernel/mm/memory_peers/nv_mem/version", "1")


NO_ERRORS = {"link_downed": 0, "symbol_error": 0, "port_rcv_errors": 0}


def eight_ndr(tree: Captured) -> None:
    """8 × ConnectX-7 at 400 Gb/s, and a storage adapter at 200."""
    for number in range(8):
        tree.port(f"mlx5_{number}", counters=NO_ERRORS)
    tree.port("mlx5_8", HDR, board="MT_0000000223", firmware="20.43.1014")
    tree.gpus("NVIDIA H100 80GB HBM3")
    tree.kernel()


def unused_second_ports(tree: Captured) -> None:
    """8 × ConnectX-7, and two dual-port Ethernet adapters with one cable each; IPoIB interfaces are down."""
    for number, name in enumerate(["0", "3", "4", "5", "6", "9", "10", "11"]):
        tree.port(f"mlx5_{name}", netdev=f"ibp{number}s0")
        tree.write(f"/sys/class/net/ibp{number}s0/operstate", "down")
    for name, state, physical in (
        ("mlx5_1", "4: ACTIVE", "5: LinkUp"), ("mlx5_2", "1: DOWN", "3: Disabled"),
        ("mlx5_7", "4: ACTIVE", "5: LinkUp"), ("mlx5_8", "1: DOWN", "3: Disabled"),
    ):  # fmt: skip
        rate = EDR if physical == "5: LinkUp" else "40 Gb/sec (4X QDR)"
        tree.port(name, rate, state=state, physical=physical, layer="Ethernet", board="MT_0000000359")
    tree.gpus("NVIDIA H100 80GB HBM3")
    tree.kernel()


def roce_with_bond(tree: Captured) -> None:
    """8 RoCE ports at 400 Gb/s, and a bond of two ports of the same board at 200."""
    for number in range(8):
        name = f"mlx5_{number}"
        tree.port(name, layer="Ethernet", netdev=f"eth{number}")
        at = f"/sys/class/infiniband/{name}/ports/1"
        tree.write(f"{at}/gids/0", "fe80:0000:0000:0000:5aa2:e1ff:feda:e626")
        tree.write(f"{at}/gid_attrs/types/0", "IB/RoCE v1")
        tree.write(f"{at}/gids/1", "0000:0000:0000:0000:0000:ffff:0a0c:0015")
        tree.write(f"{at}/gid_attrs/types/1", "RoCE v2")
        tree.write(f"{at}/gids/2", "0000:0000:0000:0000:0000:0000:0000:0000")
    tree.port("mlx5_bond_0", HDR, layer="Ethernet", netdev="bond0")
    tree.gpus("NVIDIA H200")
    tree.kernel()


def efa_p5(tree: Captured) -> None:
    """32 EFA devices of a p5.48xlarge: no board id, no counters of InfiniBand."""
    for number in range(32):
        tree.port(
            f"rdmap{number + 16}s27", EDR, layer="Unknown", board="", firmware="0.0.0.0", vendor="0x1d0f"
        )
    tree.gpus("NVIDIA H100 80GB HBM3")
    tree.kernel(peermem=False)


def b200_with_management(tree: Captured) -> None:
    """A DGX B200: 8 network ports, and 4 management functions, of which 1 has another state."""
    for number in range(4):
        state, physical = ("4: ACTIVE", "5: LinkUp") if number else ("1: DOWN", "2: Polling")
        tree.port(
            f"mlx5_{number}", state=state, physical=physical, board="NVD0000000054", firmware="28.42.1274"
        )
        tree.write(f"/sys/class/infiniband/mlx5_{number}/device/vpd", MANAGEMENT_VPD)
    for number in range(4, 12):
        tree.port(f"mlx5_{number}", counters=NO_ERRORS)
        tree.write(f"/sys/class/infiniband/mlx5_{number}/device/vpd", "\x82\x10\0Nvidia ConnectX-7")
    tree.gpus("NVIDIA B200")
    tree.kernel(peermem=False)


def one_cloud_port(tree: Captured) -> None:
    """A VM with one virtual function, and a GPU."""
    tree.port("mlx5_0", EDR, layer="Ethernet", board="MT_0000000010", netdev="eth1")
    tree.gpus("NVIDIA A100-SXM4-80GB", 1)
    tree.kernel("5.15.0-1073-azure", peermem=False)


def soft_roce(tree: Captured) -> None:
    """rdma_rxe over eth0, without a PCI device."""
    tree.port("rxe0", "2.5 Gb/sec (1X SDR)", layer="Ethernet", board="", firmware="", vendor="")
    tree.kernel(peermem=False)


HEALTHY = (
    eight_ndr,
    unused_second_ports,
    roce_with_bond,
    efa_p5,
    b200_with_management,
    one_cloud_port,
    soft_roce,
)
