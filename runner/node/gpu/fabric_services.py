"""What an NVLink fabric needs on this host: daemons, kernel modules, one version; and what of it is missing. Pure."""

import re
from collections.abc import Sequence

from runner.node.findings import Action, NodeFinding
from runner.node.gpu.driver_host import DriverHost
from runner.node.gpu.fabric_reading import FabricFacts, GpuFabric

# HGX boards of Blackwell and later; on GB200 and GB300 the switches are elsewhere in the rack.
_NVLINK5 = re.compile(r"\bB[1-9]00\b")
RACK = re.compile(r"\bGB[1-9]00\b")
FABRIC_MODULES = ("ib_umad", "mlx5_ib")


def missing_service(waiting: Sequence[GpuFabric], facts: FabricFacts) -> str:
    """What to do for the GPUs that wait for their registration, by board and by what runs here."""
    if any(one.condition == "partition" for gpu in waiting for one in gpu.complaints):
        return "no partition is assigned: activate the partition of these GPUs in Fabric Manager"
    # With a whole board passed through, Fabric Manager runs in the virtual machine (full passthrough).
    if any(gpu.virtual for gpu in waiting) and not _has_manager(facts.host):
        return (
            "this virtual machine has neither NVSwitches nor Fabric Manager: the host's Fabric Manager has to activate"
            " the partition of these GPUs"
        )
    if any(RACK.search(gpu.name) for gpu in waiting):
        return "check Fabric Manager on the switch trays of the rack, and nvidia-imex here"
    return _service(waiting, facts)


def _has_manager(host: DriverHost) -> bool:
    """Whether this machine sees switches, or has a Fabric Manager of its own."""
    packaged = any(name.startswith("nvidia-fabricmanager") for name in host.packages)
    return bool(host.switches) or packaged or "nv-fabricmanager" in host.daemons


def _service(waiting: Sequence[GpuFabric], facts: FabricFacts) -> str:
    """What has to be loaded, started or read on a node with switches of its own."""
    host = facts.host
    nvlink5 = any(_NVLINK5.search(gpu.name) for gpu in waiting)
    absent = [name for name in FABRIC_MODULES if host.modules is not None and name not in host.modules]
    if nvlink5 and absent:
        return f"load the kernel modules {' and '.join(absent)} (modprobe), then restart nvidia-fabricmanager"
    if not host.whole:
        daemons = "nvidia-fabricmanager and nvlsm" if nvlink5 else "nvidia-fabricmanager"
        return f"on the host, check {daemons}: this container does not show its processes"
    if nvlink5 and "nvlsm" not in host.daemons:
        return "NVLSM does not run: install the package nvlsm, then restart nvidia-fabricmanager, which starts it"
    if "nv-fabricmanager" not in host.daemons:
        return start_of_manager(host)
    if len(waiting) < len(facts.gpus):
        return "Fabric Manager runs, and these GPUs left the fabric: reset all GPUs of the board, or reboot the node"
    return "Fabric Manager runs: read /var/log/fabricmanager.log, restart it, and reboot the node if that does not help"


def start_of_manager(host: DriverHost) -> str:
    """How to start a Fabric Manager that does not run: in the driver's version."""
    name, version = next(
        (
            (name, version)
            for name, version in host.packages.items()
            if name.startswith("nvidia-fabricmanager")
        ),
        (None, None),
    )
    if version and host.module_version and version != host.module_version:
        return (
            f"Fabric Manager does not run: {name} is {version} and the driver {host.module_version}; install the"
            " driver's version, then start nvidia-fabricmanager"
        )
    return "Fabric Manager does not run: start nvidia-fabricmanager, in exactly the driver's version"


def next_start_of_manager(host: DriverHost) -> list[NodeFinding]:
    """A Fabric Manager that runs, and will not start again."""
    if not host.whole or host.module_version is None or "nv-fabricmanager" not in host.daemons:
        return []
    return [
        NodeFinding(
            kind="fabric-manager-version",
            action=Action.KEEP,
            where="node",
            found=f"the installed {name} is {version}, and the loaded driver {host.module_version}",
            next="install equal versions before the next restart of Fabric Manager, which will refuse this driver",
            source="gpu-driver-container #735 (2026-04): Fabric Manager demands the driver's version",
        )
        for name, version in host.packages.items()
        if name.startswith("nvidia-fabricmanager") and version != host.module_version
    ]


def service_evidence(host: DriverHost) -> tuple[str, ...]:
    """Which daemons run and which modules are loaded, as far as this process sees them."""
    daemons = "nv-fabricmanager", "nvlsm", "nvidia-imex"
    return (
        *(
            f"process {name}: {'runs' if name in host.daemons else 'not seen'}"
            for name in daemons
            if host.whole
        ),
        *(
            f"module {name}: {'loaded' if name in host.modules else 'not loaded'}"
            for name in FABRIC_MODULES
            if host.modules is not None
        ),
    )
