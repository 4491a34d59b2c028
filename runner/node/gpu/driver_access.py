"""How this process reaches NVIDIA's driver: its device nodes, the library that it loads, and what shadows that."""

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.node.gpu.driver_host import DriverHost, read_driver_host
from runner.node.host.tree import HostTree

_LIBRARY = re.compile(r"/libnvidia-ml\.so\.(\d{3}\.\d{1,4}(?:\.\d{1,4})?)(?: \(deleted\))?$")
_CUDA = re.compile(r"libcuda\.so\.(\d{3}\.\d{1,4}(?:\.\d{1,4})?)$")
_NODE = re.compile(r"nvidiactl|nvidia-uvm|nvidia\d{1,4}")
_MINOR = re.compile(r"^Device Minor: *(\d{1,4})$", re.MULTILINE)
_MOST_FOLDERS = 64
# NVIDIA's character devices have the major number 195, and 255 is nvidiactl.
_CONTROL_LINK = "/dev/char/195:255"


@dataclass(frozen=True)
class DeviceNode:
    """One of NVIDIA's device nodes.

    Attributes:
        name: `nvidiactl`, `nvidia-uvm`, `nvidia3`.
        refused: the name of the error with which it cannot be opened for reading and writing; None if it can. `EPERM`
            comes from the control group of devices (or a security module), `EACCES` from the mode of the file.
    """

    name: str
    refused: str | None = None

    @property
    def minor(self) -> int | None:
        """The number of the GPU's node; None for the others."""
        digits = self.name.removeprefix("nvidia")
        return int(digits) if digits.isdecimal() else None


@dataclass(frozen=True)
class ShadowingLibrary:
    """A CUDA driver library that LD_LIBRARY_PATH puts before the host's: where, and its version."""

    folder: str
    version: str


@dataclass(frozen=True, kw_only=True)
class DriverAccess:
    """How this process reaches the driver.

    Attributes:
        nodes: NVIDIA's nodes in /dev.
        library: version of the loaded library NVML, by its file name; None if that has none, or none is loaded.
        shadow: the CUDA library that LD_LIBRARY_PATH names first; None if it names none.
        minors: number of each GPU's device node, by bus id, as far as the driver's folder in /proc shows it.
        linked: /dev/char has the link of nvidiactl, with which systemd finds the device; None without the device.
        can_create_nodes: this user can create missing nodes: nvidia-modprobe is installed.
        container: this process runs in a container, as far as its marks tell.
    """

    host: DriverHost
    nodes: tuple[DeviceNode, ...] = ()
    library: str | None = None
    shadow: ShadowingLibrary | None = None
    minors: Mapping[str, int] = field(default_factory=dict)
    linked: bool | None = None
    can_create_nodes: bool = False
    container: bool = False

    def node(self, name: str) -> DeviceNode | None:
        """The node of this name; None if there is none."""
        return next((one for one in self.nodes if one.name == name), None)

    @property
    def denied(self) -> tuple[DeviceNode, ...]:
        """Nodes that are there and may not be opened, whatever their mode says."""
        return tuple(one for one in self.nodes if one.refused == errno.errorcode[errno.EPERM])

    @property
    def in_container(self) -> bool:
        """Whether files and processes that are seen here may be those of a container, and not of the node."""
        return self.container or not self.host.whole

    def may_use(self, bus_id: str) -> bool:
        """Whether this process may use a GPU: containers and batch jobs see only a part of the node's.

        A GPU whose node is not known counts only if this process sees the whole node.
        """
        minor = self.minors.get(bus_id)
        if minor is None:
            return not self.in_container and not self.denied
        node = self.node(f"nvidia{minor}")
        return node is not None and node.refused is None


def read_driver_access(
    tree: HostTree | None = None, dev: Path = Path("/dev"), environment: Mapping[str, str] | None = None
) -> DriverAccess:
    """Read all of it; opens no device that can be opened.

    Args:
        tree: a captured host, for tests; by default this one.
        dev: the folder of device nodes.
        environment: where LD_LIBRARY_PATH is looked up; by default this process's.
    """
    tree = tree or HostTree()
    nodes = device_nodes(dev)
    return DriverAccess(
        host=read_driver_host(tree),
        nodes=nodes,
        library=_library(tree.text("/proc/self/maps") or ""),
        shadow=_shadow(environment if environment is not None else os.environ),
        minors=dict(_minors(tree)),
        linked=tree.exists(_CONTROL_LINK) if any(one.name == "nvidiactl" for one in nodes) else None,
        can_create_nodes=tree.exists("/usr/bin/nvidia-modprobe"),
        container=tree.exists("/.dockerenv") or tree.exists("/run/.containerenv"),
    )


def device_nodes(dev: Path) -> tuple[DeviceNode, ...]:
    """NVIDIA's nodes in a folder, each with whether this process may open it; empty if the folder is not there."""
    try:
        names = sorted(one.name for one in dev.iterdir() if _NODE.fullmatch(one.name))
    except OSError:
        return ()
    return tuple(DeviceNode(name, _refusal(dev / name)) for name in names)


def _refusal(node: Path) -> str | None:
    # The kernel asks the control group of devices for access(2) too, which has no effect on the device.
    if os.access(node, os.R_OK | os.W_OK):
        return None
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return None


def _library(maps: str) -> str | None:
    found = (_LIBRARY.search(line) for line in maps.splitlines() if "/libnvidia-ml.so." in line)
    return next((one[1] for one in found if one), None)


def _shadow(environment: Mapping[str, str]) -> ShadowingLibrary | None:
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":")[:_MOST_FOLDERS]:
        library = Path(folder) / "libcuda.so.1"
        try:
            found = _CUDA.search(library.resolve().name) if folder and library.exists() else None
        except (OSError, ValueError, RuntimeError):
            continue
        if found:
            return ShadowingLibrary(folder, found[1])
    return None


def _minors(tree: HostTree) -> list[tuple[str, int]]:
    found = []
    for bus in tree.names("/proc/driver/nvidia/gpus"):
        minor = _MINOR.search(
            (tree.text(f"/proc/driver/nvidia/gpus/{bus}/information") or "").replace("\t", " ")
        )
        if minor:
            found.append((bus, int(minor[1])))
    return found
