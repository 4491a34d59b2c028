"""Reads the limits of a process: shared memory, resource limits, open files, control groups."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runner.node.findings import NotRead
from runner.node.host.cgroup_limits import CgroupLimits, read_cgroup_limits
from runner.node.host.mounts import mount_at, parse_mounts, size_option
from runner.node.host.shm_leftovers import ShmLeftovers, find_leftovers
from runner.node.host.tree import HostTree

_LIMIT = re.compile(r"(Max [a-z ]{2,30}?) {2,}(\d{1,20}|unlimited) {1,30}(\d{1,20}|unlimited)\b", re.ASCII)
_CAP_IPC_LOCK = 14
_ALL_IDS = 2**32 - 1
_MOST_CHILDREN = 2000


class Starter(StrEnum):
    """What started a process, by its control groups, mounts and marks."""

    KUBERNETES = "kubernetes"
    DOCKER = "docker"
    PODMAN = "podman"
    SLURM = "slurm"
    SERVICE = "systemd service"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SharedMemory:
    """/dev/shm as the judged process sees it.

    Attributes:
        size, free: bytes; None: not known.
        source: `statvfs`, `mount options`, or `half of the memory, the kernel's default`.
    """

    size: int
    free: int | None
    source: str


@dataclass(frozen=True)
class ResourceLimit:
    """Soft and hard limit, as in setrlimit(2); None is unlimited."""

    soft: int | None
    hard: int | None


@dataclass(frozen=True, kw_only=True)
class LimitsFacts:
    """The limits of one process. None: not known, as `not_read` says.

    Attributes:
        starter: what started it.
        gpus: device nodes of GPUs that it can open.
        rdma: active RDMA ports that it can use.
        workers: its running workers of PyTorch's DataLoader.
        shm: None if there is no /dev/shm, or it is unknown.
        shm_missing: there is no /dev/shm.
        leftovers: files in /dev/shm without an owner; None for a captured tree.
        limits: resource limits by their names in /proc/PID/limits; empty if unreadable.
        locks_freely: RLIMIT_MEMLOCK does not bind it, because it has CAP_IPC_LOCK in the first user namespace.
        open_files: how many it has open.
        files: allocated files of the whole host, and their maximum.
        memory: bytes of memory of the host.
    """

    starter: Starter
    gpus: int
    rdma: int
    workers: int
    shm: SharedMemory | None
    shm_missing: bool
    leftovers: ShmLeftovers | None
    limits: Mapping[str, ResourceLimit]
    locks_freely: bool
    open_files: int | None
    files: tuple[int, int] | None
    memory: int | None
    cgroups: CgroupLimits
    not_read: tuple[NotRead, ...] = ()


def read_limits(tree: HostTree) -> LimitsFacts:
    """The limits of the judged process: this shell, `--pid`, or the one whose files a tree has as /proc/self."""
    mounts_text = tree.text(f"{tree.process}/mountinfo")
    memory = _memory(tree)
    cgroups = read_cgroup_limits(tree)
    limits = parse_limits(tree.text(f"{tree.process}/limits") or "")
    if not limits:
        tree.not_read.append(NotRead("resource limits", f"{tree.process}/limits cannot be read or is empty"))
    shm, missing = _shared_memory(tree, mounts_text, memory)
    return LimitsFacts(
        starter=starter_of(cgroups.names, mounts_text or "", tree.exists, _inside(tree)),
        gpus=_gpus(tree),
        rdma=_rdma_ports(tree),
        workers=_workers(tree),
        shm=shm,
        shm_missing=missing,
        leftovers=find_leftovers(Path(f"{_inside(tree)}/dev/shm")) if tree.root is None and shm else None,
        limits=limits,
        locks_freely=locks_freely(
            tree.text(f"{tree.process}/status") or "", tree.text(f"{tree.process}/uid_map") or ""
        ),
        open_files=len(tree.names(f"{tree.process}/fd")) or None,
        files=_files(tree),
        memory=memory,
        cgroups=cgroups,
        not_read=tuple(tree.not_read),
    )


def parse_limits(text: str) -> Mapping[str, ResourceLimit]:
    """The lines of /proc/PID/limits by name, such as `Max open files`; lines of another form are left out."""
    found = {}
    for line in text.splitlines():
        match = _LIMIT.match(line)
        if match:
            soft, hard = (None if one == "unlimited" else int(one) for one in (match[2], match[3]))
            found[match[1]] = ResourceLimit(soft, hard)
    return found


def locks_freely(status: str, uid_map: str) -> bool:
    """Whether RLIMIT_MEMLOCK does not bind a process: the kernel asks for CAP_IPC_LOCK in the first user namespace.

    Args:
        status: /proc/PID/status.
        uid_map: /proc/PID/uid_map; all of the ids only in the first user namespace.
    """
    found = re.search(r"^CapEff:\s*([0-9a-f]{1,16})$", status, re.MULTILINE)
    if found is None or uid_map.split() != ["0", "0", str(_ALL_IDS)]:
        return False
    return bool(int(found[1], 16) >> _CAP_IPC_LOCK & 1)


def starter_of(groups: tuple[str, ...], mounts: str, exists: Callable[[str], bool], inside: str) -> Starter:
    """What started a process.

    Args:
        groups: paths of its control groups.
        mounts: its mountinfo.
        exists: whether a path is there.
        inside: the root directory of the process.
    """
    paths = "\n".join(groups)
    # A container may hide its control groups; its files in /etc are mounted from the folder of its runtime.
    if "kubepods" in paths or "/var/lib/kubelet/pods/" in mounts or "/kubelet/pods/" in mounts:
        return Starter.KUBERNETES
    if "libpod" in paths or exists(f"{inside}/run/.containerenv"):
        return Starter.PODMAN
    if "/docker" in paths or "/docker/containers/" in mounts or exists(f"{inside}/.dockerenv"):
        return Starter.DOCKER
    if "slurm" in paths:
        return Starter.SLURM
    if re.search(r"^/system\.slice/[^\n]+\.service", paths, re.MULTILINE):
        return Starter.SERVICE
    return Starter.UNKNOWN


def _inside(tree: HostTree) -> str:
    """The root directory of the judged process."""
    return "" if tree.root is not None or tree.pid is None else f"{tree.process}/root"


def _memory(tree: HostTree) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d{1,18}) kB", tree.text("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _shared_memory(
    tree: HostTree, mounts_text: str | None, memory: int | None
) -> tuple[SharedMemory | None, bool]:
    """/dev/shm, and whether there is none."""
    place = f"{_inside(tree)}/dev/shm"
    before = len(tree.not_read)
    space = tree.space(place)
    if space is not None:
        return SharedMemory(space.size, space.free, "statvfs"), False
    if tree.root is None:
        return None, len(tree.not_read) == before and mounts_text is not None
    if not mounts_text:
        tree.not_read.append(NotRead("/dev/shm", "the tree has no proc/self/mountinfo"))
        return None, False
    mount = mount_at(parse_mounts(mounts_text), "/dev/shm")
    if mount is None:
        # It may be a folder of another file system, or a link to /run/shm.
        tree.not_read.append(NotRead("/dev/shm", "it is not a mount of its own in proc/self/mountinfo"))
        return None, False
    size = size_option(mount, memory)
    if size is not None:
        return SharedMemory(size, None, "mount options"), False
    if mount.kind == "tmpfs" and memory is not None:
        return SharedMemory(memory // 2, None, "half of the memory, the kernel's default"), False
    tree.not_read.append(NotRead("size of /dev/shm", f"its mount options ({mount.kind}) do not say"))
    return None, False


def _gpus(tree: HostTree) -> int:
    folder = f"{_inside(tree)}/dev"
    names = tree.names(folder)
    if names or tree.root is None:
        return sum(re.fullmatch(r"nvidia\d{1,3}", name) is not None for name in names)
    # In a container all GPUs of the node are listed there, so this is only for trees without /dev.
    return len(tree.names("/proc/driver/nvidia/gpus"))


def _rdma_ports(tree: HostTree) -> int:
    dev = f"{_inside(tree)}/dev"
    if tree.names(dev) and not any(one.startswith("uverbs") for one in tree.names(f"{dev}/infiniband")):
        return 0
    ports = (
        f"/sys/class/infiniband/{device}/ports/{port}/state"
        for device in tree.names("/sys/class/infiniband")
        for port in tree.names(f"/sys/class/infiniband/{device}/ports")
    )
    return sum("ACTIVE" in (tree.text(port) or "") for port in ports)


def _workers(tree: HostTree) -> int:
    # PyTorch names the processes: pt_data_worker.
    pid = tree.process.rpartition("/")[2]
    children = (tree.text(f"{tree.process}/task/{pid}/children") or "").split()[:_MOST_CHILDREN]
    return sum((tree.text(f"/proc/{one}/comm") or "").startswith("pt_data_worker") for one in children)


def _files(tree: HostTree) -> tuple[int, int] | None:
    text = (tree.text("/proc/sys/fs/file-nr") or "").strip()
    found = re.fullmatch(r"(\d{1,20})\s+\d{1,20}\s+(\d{1,20})", text, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None
