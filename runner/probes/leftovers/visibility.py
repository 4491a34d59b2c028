"""Which GPU a single-GPU server is pinned to: by a name that stays, and near the CPUs it may run on.

CUDA counts visible GPUs from 0 in an order of its own (fastest first, or by PCI bus with CUDA_DEVICE_ORDER), and a
board that drops out moves the others up: a UUID names one board for good. A GPU on the other socket is reached across
the link between sockets, which slows copies from host memory and the CPU's launches.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from runner.errors import InputError
from runner.probes.leftovers.variables import Harm, Leftover
from runner.remedy import Remedy

NAME = "CUDA_VISIBLE_DEVICES"
_NODES = Path("/sys/devices/system/node")
_GPUS = Path("/proc/driver/nvidia/gpus")
_PCI = Path("/sys/bus/pci/devices")


def remarks(
    value: str | None, numa_of: Sequence[int | None], own_nodes: Iterable[int], nodes: int
) -> list[Leftover]:
    """What can be better about the pin; nothing of it alone is the symptom. Pure.

    Args:
        value: of CUDA_VISIBLE_DEVICES; None where it is not set, which makes index 0 the one.
        numa_of: the NUMA node of every GPU of the host, in PCI order; None where unknown.
        own_nodes: the NUMA nodes whose CPUs the server may run on.
        nodes: NUMA nodes of the host that have CPUs.
    """
    if not numa_of:
        return []
    first = (value if value is not None else "0").split(",")[0].strip()
    if not re.fullmatch(r"\d{1,6}", first):
        return []
    found = []
    if len(numa_of) > 1 and value is not None:
        found.append(
            Leftover(
                NAME,
                value,
                Harm.LOW,
                "pins by number, which moves when a board drops out; a UUID stays",
                Remedy.by_hand("pin with {} and the UUID that nvidia-smi -L shows for this GPU", NAME),
            )
        )
    node = numa_of[int(first)] if int(first) < len(numa_of) else None
    if node is not None and nodes > 1 and set(own_nodes) != {node}:
        where = "another socket than" if node not in own_nodes else "one of the sockets of"
        found.append(
            Leftover(
                NAME,
                value or "",
                Harm.LOW,
                f"GPU {first} is at NUMA node {node}, {where} the CPUs this process may use",
                Remedy.by_hand(
                    "start the server with numactl --cpunodebind={0} --membind={0}, or pin a GPU of its own node",
                    str(node),
                ),
            )
        )
    return found


def gpu_nodes(gpus: Path = _GPUS, pci: Path = _PCI) -> list[int | None]:
    """The NUMA node of every NVIDIA GPU of this host, in PCI order; None where the kernel knows none."""
    found: list[int | None] = []
    for gpu in sorted(gpus.glob("*:*")):
        try:
            node = int((pci / gpu.name.lower() / "numa_node").read_text(encoding="ascii"))
        except (OSError, ValueError):
            node = -1
        found.append(node if node >= 0 else None)
    return found


def cpu_nodes(allowed: Iterable[int], root: Path = _NODES) -> tuple[set[int], int]:
    """The NUMA nodes of these CPUs, and how many nodes with CPUs the host has; nothing known is (empty, 0)."""
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
        raise InputError(f"process {pid} has ended meanwhile; name one that runs") from error
