"""What the control groups of a process limit, and how often a limit was hit: memory, processes, CPU, huge pages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.node.findings import NotRead
from runner.node.host.cgroups import (
    CgroupFolders,
    folders_of,
    limit_of,
    parse_counters,
    parse_membership,
    shown_group,
)
from runner.node.host.mounts import parse_mounts
from runner.node.host.tree import HostTree


@dataclass(frozen=True, kw_only=True)
class MemoryLevel:
    """Memory of one control group, in bytes. None: no such limit, or not known.

    Attributes:
        where: for the reader.
        own: it is the group of the process itself, not one above it.
        limit, high, swap: memory.max, memory.high, memory.swap.max, or version 1's files.
        used: with the page cache, which the kernel gives back on demand.
        held: anonymous and shared memory, which it does not.
        kills: processes of this group that the kernel killed for memory since the group was made. With
            `local=False`, an old kernel's count, of the groups below too.
        hits: how often this group's own limit left an allocation without memory; version 2 only.
        slowed: how often memory.high was exceeded; version 2 only.
    """

    where: str
    own: bool
    limit: int | None = None
    high: int | None = None
    swap: int | None = None
    used: int | None = None
    held: int | None = None
    kills: int | None = None
    hits: int | None = None
    slowed: int | None = None
    local: bool = True


@dataclass(frozen=True)
class PidsLevel:
    """Processes and threads of one control group: its limit, how many there are, how many starts were refused."""

    where: str
    own: bool
    limit: int | None
    used: int | None
    refused: int | None


@dataclass(frozen=True)
class CpuLevel:
    """CPU time of one control group: cores that its quota gives, and the periods in which it ran out.

    `throttled` is their share of all `periods` since the group was made; None if there were none.
    """

    where: str
    cores: float
    throttled: float | None
    periods: int = 0
    throttled_periods: int = 0


@dataclass(frozen=True, kw_only=True)
class CgroupLimits:
    """Limits of all control groups that bind a process, its own first.

    Attributes:
        hugetlb: limit in bytes by page size, where one is set.
        hidden: groups above may exist that cannot be seen from here.
        names: the paths of its groups, by controller, for finding out what started the process.
    """

    memory: tuple[MemoryLevel, ...] = ()
    pids: tuple[PidsLevel, ...] = ()
    cpu: tuple[CpuLevel, ...] = ()
    hugetlb: Mapping[str, int]
    hidden: bool = False
    names: tuple[str, ...] = ()


def read_cgroup_limits(tree: HostTree) -> CgroupLimits:
    """The limits of the judged process. What cannot be read is added to the tree's `not_read`."""
    text = tree.text(f"{tree.process}/cgroup")
    if not text:
        tree.not_read.append(
            NotRead("limits of the control group", f"{tree.process}/cgroup is missing or empty")
        )
        return CgroupLimits(hugetlb={})
    groups = parse_membership(text)
    # The reader's mounts, also for another process: that process may be in a container without these files.
    mounts = parse_mounts(tree.text("/proc/self/mountinfo") or "")
    found: dict[str, CgroupFolders] = {}
    for controller in ("memory", "pids", "cpu", "hugetlb"):
        folders = folders_of(controller, groups, mounts, tree.exists)
        if folders is not None:
            found[controller] = folders
        elif controller in {"memory", "pids"} and not groups.keys().isdisjoint({controller, ""}):
            tree.not_read.append(
                NotRead(
                    f"{controller} limit of the control group",
                    "its files are not mounted here; read them on the node, outside of the container",
                )
            )
    hidden = any(one.hidden and _limited(tree, one.folders[-1]) for one in found.values())
    if hidden:
        tree.not_read.append(
            NotRead(
                "control groups above this container's",
                "they are not visible from here; on the node, --pid judges them too",
                matters=False,
            )
        )
    return CgroupLimits(
        memory=tuple(_memory(tree, found["memory"])) if "memory" in found else (),
        pids=tuple(_pids(tree, found["pids"])) if "pids" in found else (),
        cpu=tuple(_cpu(tree, found["cpu"])) if "cpu" in found else (),
        hugetlb=_hugetlb(tree, found["hugetlb"]) if "hugetlb" in found else {},
        hidden=hidden,
        names=tuple(dict.fromkeys(groups.values())),
    )


def _limited(tree: HostTree, folder: str) -> bool:
    """Whether this is a container's root, with groups above it: the kernel's own root has no such files."""
    return any(tree.exists(f"{folder}/{name}") for name in ("memory.max", "pids.max"))


def _memory(tree: HostTree, folders: CgroupFolders) -> Sequence[MemoryLevel]:
    read = _memory_1 if folders.version == 1 else _memory_2
    return [read(tree, folder, level) for level, folder in enumerate(folders.folders)]


def _memory_2(tree: HostTree, folder: str, level: int) -> MemoryLevel:
    local = tree.text(f"{folder}/memory.events.local")
    events = parse_counters(local if local is not None else tree.text(f"{folder}/memory.events"))
    stat = parse_counters(tree.text(f"{folder}/memory.stat"))
    return MemoryLevel(
        where=shown_group(folder, level),
        own=level == 0,
        limit=limit_of(tree.text(f"{folder}/memory.max")),
        high=limit_of(tree.text(f"{folder}/memory.high")),
        swap=limit_of(tree.text(f"{folder}/memory.swap.max")),
        used=tree.number(f"{folder}/memory.current"),
        held=stat["anon"] + stat.get("shmem", 0) if "anon" in stat else None,
        kills=events.get("oom_kill"),
        hits=events.get("oom"),
        slowed=events.get("high"),
        local=local is not None or not events,
    )


def _memory_1(tree: HostTree, folder: str, level: int) -> MemoryLevel:
    stat = parse_counters(tree.text(f"{folder}/memory.stat"))
    rss = stat.get("total_rss", stat.get("rss"))
    return MemoryLevel(
        where=shown_group(folder, level),
        own=level == 0,
        limit=limit_of(tree.text(f"{folder}/memory.limit_in_bytes")),
        swap=limit_of(tree.text(f"{folder}/memory.memsw.limit_in_bytes")),
        used=tree.number(f"{folder}/memory.usage_in_bytes"),
        held=None if rss is None else rss + stat.get("total_shmem", stat.get("shmem", 0)),
        kills=parse_counters(tree.text(f"{folder}/memory.oom_control")).get("oom_kill"),
    )


def _pids(tree: HostTree, folders: CgroupFolders) -> Sequence[PidsLevel]:
    return [
        PidsLevel(
            shown_group(folder, level),
            level == 0,
            limit_of(tree.text(f"{folder}/pids.max")),
            tree.number(f"{folder}/pids.current"),
            parse_counters(tree.text(f"{folder}/pids.events")).get("max"),
        )
        for level, folder in enumerate(folders.folders)
    ]


def _cpu(tree: HostTree, folders: CgroupFolders) -> Sequence[CpuLevel]:
    found = []
    for level, folder in enumerate(folders.folders):
        if folders.version == 1:
            quota, period = (tree.number(f"{folder}/cpu.cfs_{one}_us") for one in ("quota", "period"))
        else:
            quota, period = cpu_quota(tree.text(f"{folder}/cpu.max"))
        if quota is None or period is None or quota <= 0 or period <= 0:
            continue
        stat = parse_counters(tree.text(f"{folder}/cpu.stat"))
        periods = stat.get("nr_periods", 0)
        hits = stat.get("nr_throttled", 0)
        share = hits / periods if periods else None
        found.append(CpuLevel(shown_group(folder, level), quota / period, share, periods, hits))
    return found


def cpu_folders(tree: HostTree) -> CgroupFolders | None:
    """The control groups that limit the CPU time of the judged process; None if they are not mounted here."""
    groups = parse_membership(tree.text(f"{tree.process}/cgroup") or "")
    return folders_of("cpu", groups, parse_mounts(tree.text("/proc/self/mountinfo") or ""), tree.exists)


def read_cpu_levels(tree: HostTree, folders: CgroupFolders) -> tuple[CpuLevel, ...]:
    """Those of the groups that have a quota, the process's own first."""
    return tuple(_cpu(tree, folders))


def cpu_quota(text: str | None) -> tuple[int | None, int | None]:
    """Quota and period in microseconds, from cpu.max: `400000 100000`; None for `max`, and for another form."""
    found = re.fullmatch(r"(\d{1,19})\s+(\d{1,19})", (text or "").strip(), re.ASCII)
    return (int(found[1]), int(found[2])) if found else (None, None)


def _hugetlb(tree: HostTree, folders: CgroupFolders) -> Mapping[str, int]:
    ending = ".limit_in_bytes" if folders.version == 1 else ".max"
    found: dict[str, int] = {}
    for folder in folders.folders:
        for name in tree.names(folder):
            size, _, rest = name.removeprefix("hugetlb.").partition(".")
            if not name.startswith("hugetlb.") or f".{rest}" != ending:
                continue
            limit = limit_of(tree.text(f"{folder}/{name}"))
            if limit is not None:
                found[size] = min(limit, found.get(size, limit))
    return found
