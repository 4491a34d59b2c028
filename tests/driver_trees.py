"""Captured hosts for the readers of NVIDIA's driver: what /proc and /sys show there, written anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.node.host.tree import HostTree

NVRM = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Sep 17 01:28:49 UTC 2026\nGCC version:  13.3\n"
)
NVRM_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\n"
HGX_MODULES = ("nvidia_uvm", "nvidia_modeset", "nvidia", "ib_umad", "mlx5_ib", "ib_core")
HGX_DAEMONS = ("systemd", "nv-fabricmanage", "nvlsm", "nvidia-persiste", "containerd")


def driver_tree(
    root: Path,
    *,
    driver: str | None = "580.95.05",
    uptime_s: float = 86_400.0,
    modules: Sequence[str] = HGX_MODULES,
    daemons: Sequence[str] = HGX_DAEMONS,
    gpus: Mapping[str, str | None] | None = None,
    switches: int = 0,
    minors: Mapping[str, int] | None = None,
    packages: Mapping[str, str] | None = None,
    container: bool = False,
    windows: bool = False,
) -> HostTree:
    """A host: GPUs by bus id with the driver that holds each, daemons by the names that the kernel cuts."""
    files = {
        "proc/uptime": f"{uptime_s:.2f} 100.00\n",
        "proc/modules": "".join(f"{name} 1 0 - Live 0x0\n" for name in modules),
        "proc/2/comm": "sleep\n" if container else "kthreadd\n",
    }
    if driver:
        files["proc/driver/nvidia/version"] = NVRM.format(driver)
    if windows:
        files["dev/dxg"] = ""
    for number, name in enumerate(daemons):
        files[f"proc/{100 + number}/comm"] = f"{name}\n"
    for bus, minor in (minors or {}).items():
        files[f"proc/driver/nvidia/gpus/{bus}/information"] = (
            f"Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n"
        )
    if packages:
        files["var/lib/dpkg/status"] = "".join(
            f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n"
            for name, version in packages.items()
        )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    for bus, held in (gpus or {}).items():
        _pci(root, bus, "0x030200", held)
    for number in range(switches):
        _pci(root, f"0000:f{number}:00.0", "0x068000", "nvidia-nvswitch")
    return HostTree(root)


def _pci(root: Path, bus: str, kind: str, driver: str | None) -> None:
    folder = root / "sys/bus/pci/devices" / bus
    folder.mkdir(parents=True)
    for name, text in {"vendor": "0x10de", "device": "0x2330", "class": kind}.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    if driver:
        (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")
