"""The GPU that a single-GPU server is pinned to: by a stable name, and close to its CPUs.

CUDA numbers visible GPUs from 0 in its own order (fastest first, or by PCI bus with CUDA_DEVICE_ORDER), and a failed
board shifts the numbers of the others; a UUID is stable. A GPU on the other socket is reached across the link between
sockets, which slows copies from host memory and kernel launches.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from runner.base.errors import InputError
from runner.base.remedy import Remedy
from runner.hardware.visible import NAME, listed
from runner.kit.leftovers.variables import Harm, Leftover

_NODES = Path("/sys/devices/system/node")
_GPUS = Path("/proc/driver/nvidia/gpus")
_PCI = Path("/sys/bus/pci/devices")


def remarks(
    value: str | None, numa_of: Sequence[int | None], own_nodes: Iterable[int], nodes: int
) -> list[Leftover]:
    """Suggestions for a better pin; they are not the symptom. Pure.

    Args:
        value: CUDA_VISIBLE_DEVICES; None if not set, which means index 0.
        numa_of: the NUMA node of every GPU of the host, in PCI order; None if unknown.
        own_nodes: the NUMA nodes whose CPUs the server may run on.
        nodes: NUMA nodes of the host that have CPUs.
    """
    if not numa_of:
        return []
    first = "0" if value is None else next(iter(listed(value)), "")
    if not first.isdecimal():
        return []
    found = []
    if len(numa_of) > 1 and value is not None:
        found.append(
            Leftover(
                NAME,
                value,
                Harm.LOW,
                "pins by number, which changes when a board fails; a UUID is stable",
                Remedy.by_hand("pin with {} and the UUID that nvidia-smi -L shows for this GPU", NAME),
            )
        )
    node = numa_of[int(first)] if int(first) < len(numa_of) else None
    if node is not None and nodes > 1 and set(own_nodes) != {node}:
        where = "a different socket from" if node not in own_nodes else "one of the sockets of"
        found.append(
            Leftover(
                NAME,
                value or "",
                Harm.LOW,
                f"GPU {first} is on NUMA node {node}, {where} the CPUs that this process may use",
                Remedy.by_hand(
                    "start the server with numactl --cpunodebind={0} --membind={0}, or pin a GPU on its own NUMA node",
                    str(node),
                ),
            )
        )
    return found


def gpu_nodes(gpus: Path = _GPUS, pci: Path = _PCI) -> list[int | None]:
    """The NUMA node of every NVIDIA GPU of this host, in PCI order; None if the kernel reports none."""
    found: list[int | None] = []
    for gpu in sorted(gpus.glob("*:*")):
        try:
            node = int((pci / gpu.name.lower() / "numa_node").read_text(encoding="ascii"))
        except (OSError, ValueError):
            node = -1
        found.append(node if node >= 0 else None)
    return found


def cpu_nodes(allowed: Iterable[int], root: Path = _NODES) -> tuple[set[int], int]:
    """The NUMA nodes of these CPUs, and the number of nodes with CPUs; (empty, 0) if unknown."""
    own, count, cpus = set(), 0, set(allowed)
    for path in root.glob("node[0-9]*/cpulist"):
        try:
            listed = _cpus(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        count += bool(listed)
        if listed & cpus:
            own.add(int(path.parent.name.removeprefix("node")))
    return own, count


def _cpus(text: str) -> set[int]:
    """`0-3,8` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


def own_cpus(pid: int) -> set[int]:
    """The CPUs that a process may run on.

    Raises:
        InputError: it has ended.
    """
    try:
        return os.sched_getaffinity(pid)
    except OSError as error:
        raise InputError(f"process {pid} has ended; ps -e lists the running ones") from error
