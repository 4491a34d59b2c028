"""What the host tells about NVIDIA's driver beside NVML: kernel modules, daemons, PCI devices, installed packages."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.base.placed import PlacedFileError, read_placed
from runner.node.host.tree import HostTree

# The kernel cuts the name of a process after 15 characters.
_DAEMONS = {
    name[:15]: name
    for name in (
        "nv-fabricmanager",
        "nvlsm",
        "nvidia-imex",
        "nvidia-persistenced",
        "nv-hostengine",
        "dockerd",
        "containerd",
        "crio",
    )
}
_DRIVER_VERSION = re.compile(r"(?<![\d.])\d{3}\.\d{1,4}(?:\.\d{1,4})?(?![\d.])")
_NVIDIA = "0x10de"
# Old chip sets of NVIDIA have bridges too; switches that are handed to a virtual machine are configured there.
_GPU_CLASS, _SWITCH_DRIVER = "0x03", "nvidia-nvswitch"
_DPKG, _LARGEST_DPKG = Path("/var/lib/dpkg/status"), 64 << 20
_PACKAGES = re.compile(
    r"nvidia-fabricmanager(-\d+)?|nvlsm|libnvidia-compute(-\d+)?(-server)?|nvidia-imex(-\d+)?"
)


@dataclass(frozen=True)
class NvidiaDevice:
    """One NVIDIA GPU or NVSwitch among the PCI devices.

    Attributes:
        bus_id: `0000:1b:00.0`.
        model: PCI device id, `0x2330`.
        driver: the kernel driver that holds it: `nvidia`, `vfio-pci`; None if none does.
    """

    bus_id: str
    model: str
    driver: str | None


@dataclass(frozen=True, kw_only=True)
class DriverHost:
    """The driver's surroundings on this host.

    Attributes:
        uptime_s: since the kernel started; None if it cannot be read.
        whole: /proc shows the processes of the whole node, and not only those of a container.
        daemons: names of NVIDIA's daemons and of container runtimes that run here, as far as /proc shows them.
        modules: loaded kernel modules; None if they cannot be read.
        module_version: of the loaded kernel module `nvidia`; None if it is not loaded.
        gpus, switches: PCI devices of NVIDIA; in a container, those of the whole node. Switches only where the driver
            holds them.
        packages: versions of installed packages, by name, without the distribution's revision.
        packages_unread: why the packages are not known; None if they are.
        windows: this is Linux within Windows (WSL), where Windows has the driver.
    """

    uptime_s: float | None = None
    whole: bool = True
    daemons: frozenset[str] = frozenset()
    modules: frozenset[str] | None = None
    module_version: str | None = None
    gpus: tuple[NvidiaDevice, ...] = ()
    switches: tuple[NvidiaDevice, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    packages_unread: str | None = None
    windows: bool = False


def read_driver_host(tree: HostTree) -> DriverHost:
    """Read all of it; what is missing is left out."""
    modules = tree.text("/proc/modules")
    packages = _installed(tree)
    devices = [(bus, _of_pci(tree, bus)) for bus in tree.names("/sys/bus/pci/devices")]
    return DriverHost(
        uptime_s=_uptime(tree),
        # Only in the first PID namespace is process 2 the kernel's.
        whole=tree.text("/proc/2/comm") == "kthreadd",
        daemons=frozenset(_daemons(tree)),
        modules=None if modules is None else frozenset(line.split(" ")[0] for line in modules.splitlines()),
        module_version=driver_version(tree.text("/proc/driver/nvidia/version") or "")
        or driver_version(tree.text("/sys/module/nvidia/version") or ""),
        gpus=tuple(one for _, (kind, one) in devices if kind == "gpu"),
        switches=tuple(one for _, (kind, one) in devices if kind == "switch"),
        packages=packages if isinstance(packages, Mapping) else {},
        packages_unread=packages if isinstance(packages, str) else None,
        windows=tree.exists("/dev/dxg"),
    )


def driver_version(text: str) -> str | None:
    """The first driver version in a text: `580.95.05` in `NVIDIA UNIX x86_64 Kernel Module  580.95.05  Wed …`."""
    found = _DRIVER_VERSION.search(text)
    return found[0] if found else None


def installed_packages(text: str) -> dict[str, str]:
    """Versions of NVIDIA's packages in dpkg's status file."""
    found = {}
    for paragraph in text.split("\n\n"):
        if "nvidia" not in paragraph[:200] and "nvlsm" not in paragraph[:200]:
            continue
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if not line.startswith(" ") and ": " in line
        )
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if fields.get("Status", "").endswith(" installed") and _PACKAGES.fullmatch(name):
            found[name] = driver_version(version) or version.split("-")[0]
    return found


def _uptime(tree: HostTree) -> float | None:
    try:
        return float((tree.text("/proc/uptime") or "").split()[0])
    except (ValueError, IndexError):
        return None


def _daemons(tree: HostTree) -> Iterable[str]:
    for name in tree.names("/proc"):
        if name.isdecimal():
            known = _DAEMONS.get(tree.text(f"/proc/{name}/comm") or "")
            if known:
                yield known


def _of_pci(tree: HostTree, bus: str) -> tuple[str, NvidiaDevice]:
    folder = f"/sys/bus/pci/devices/{bus}"
    link = tree.link(f"{folder}/driver")
    device = NvidiaDevice(bus, tree.text(f"{folder}/device") or "", link.rsplit("/", 1)[-1] if link else None)
    if tree.text(f"{folder}/vendor") != _NVIDIA:
        return "", device
    if (tree.text(f"{folder}/class") or "").startswith(_GPU_CLASS):
        return "gpu", device
    return "switch" if device.driver == _SWITCH_DRIVER else "", device


def _installed(tree: HostTree) -> dict[str, str] | str:
    if tree.root is None:
        try:
            data = read_placed(_DPKG, _LARGEST_DPKG)
        except PlacedFileError as error:
            if error.kind != "missing":
                return f"{_DPKG}: {error.why}"
        else:
            return installed_packages(data.decode(errors="replace"))
    elif (text := tree.text(str(_DPKG))) is not None:
        return installed_packages(text)
    return "no dpkg database; rpm's is not read: run rpm -q nvidia-fabricmanager nvlsm"
