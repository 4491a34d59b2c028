"""Reads what a process may use of the CPUs, and what its threads ran and waited."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runner.node.findings import NotRead
from runner.node.host.cgroup_limits import CpuLevel, cpu_folders, read_cpu_levels
from runner.node.host.limits_reading import parse_limits
from runner.node.host.tree import HostTree

_MOST_CPUS, _MOST_CHILDREN, _MOST_TASKS = 8192, 512, 4096
_CPUS = "/sys/devices/system/cpu"
_NODES = "/sys/devices/system/node"
# After the name of the program in /proc/PID/stat; proc_pid_stat(5) counts from the pid, as fields 3 and on.
_MAJOR_FAULTS = 9


@dataclass(frozen=True, kw_only=True)
class CpuFacts:
    """CPUs of one process. None or empty: not known.

    Attributes:
        allowed, online: numbers of the cores that it may use, and of those of the host.
        loaders_allowed: of the cores that its loaders may use, together.
        threads: how many it has; loaders: of its children, workers of PyTorch's DataLoader.
        tasks: nanoseconds that each thread, of it and of its children, ran and waited for a core since it began.
        major_faults: page faults that read from storage, of it and of its children, by process.
        levels: its control groups with a quota.
        sharing: processes of the same parent and name, with itself, that may use one of its cores.
        governors: cores that it may use by their governor; driver: of the clocks.
        nodes: NUMA nodes of those cores.
        pressure, group_pressure: share of the last ten seconds in which a task of the host, or of its control group,
            waited for a core.
        open_files, most_files: open files, and the soft limit.
    """

    allowed: tuple[int, ...] = ()
    loaders_allowed: tuple[int, ...] = ()
    online: tuple[int, ...] = ()
    threads: int | None = None
    loaders: int = 0
    tasks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    major_faults: Mapping[str, int] = field(default_factory=dict)
    levels: tuple[CpuLevel, ...] = ()
    sharing: int = 1
    governors: Mapping[str, int] = field(default_factory=dict)
    driver: str | None = None
    nodes: tuple[int, ...] = ()
    pressure: float | None = None
    group_pressure: float | None = None
    open_files: int | None = None
    most_files: int | None = None
    not_read: tuple[NotRead, ...] = ()


def read_cpu(tree: HostTree) -> CpuFacts:
    """The facts of the judged process. What is missing is said in `not_read`."""
    status = tree.text(f"{tree.process}/status") or ""
    allowed = parse_cpu_list(_field(status, "Cpus_allowed_list"))
    if not allowed:
        tree.not_read.append(NotRead("cores of the process", f"{tree.process}/status does not name them"))
    children = _children(tree, tree.process)
    processes = (tree.process, *(f"/proc/{one}" for one in children))
    tasks = {task: times for one in processes for task, times in _tasks(tree, one).items()}
    if not tasks:
        tree.not_read.append(
            NotRead(
                "time that its threads waited for a core", "this kernel keeps no schedstat", matters=False
            )
        )
    limit = parse_limits(tree.text(f"{tree.process}/limits") or "").get("Max open files")
    threads, folders = _field(status, "Threads"), cpu_folders(tree)
    loaders = [one for one in children if (tree.text(f"/proc/{one}/comm") or "").startswith("pt_data_worker")]
    bound = (_field(tree.text(f"/proc/{one}/status") or "", "Cpus_allowed_list") for one in loaders)
    governors = Counter(
        name for cpu in allowed if (name := tree.text(f"{_CPUS}/cpu{cpu}/cpufreq/scaling_governor"))
    )
    return CpuFacts(
        allowed=allowed,
        loaders_allowed=tuple(sorted({core for one in bound for core in parse_cpu_list(one)})),
        online=parse_cpu_list(tree.text(f"{_CPUS}/online") or ""),
        threads=int(threads) if re.fullmatch(r"\d{1,9}", threads, re.ASCII) else None,
        loaders=len(loaders),
        tasks=tasks,
        major_faults={one: count for one in processes if (count := _major_faults(tree, one)) is not None},
        levels=read_cpu_levels(tree, folders) if folders else (),
        sharing=_sharing(tree, status, allowed),
        governors=governors,
        driver=tree.text(f"{_CPUS}/cpu{allowed[0]}/cpufreq/scaling_driver") if allowed else None,
        nodes=_nodes(tree, allowed),
        pressure=_pressure(tree.text("/proc/pressure/cpu")),
        group_pressure=_pressure(tree.text(f"{folders.folders[0]}/cpu.pressure")) if folders else None,
        open_files=len(tree.names(f"{tree.process}/fd")) or None,
        most_files=limit.soft if limit else None,
        not_read=tuple(tree.not_read),
    )


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Numbers of a list such as `0-3,8` (cpuset(7)); parts of another form are left out."""
    found: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        if match:
            first = int(match[1])
            found.update(range(first, min(int(match[2] or first), _MOST_CPUS) + 1))
    return tuple(sorted(found))


def parse_schedstat(text: str) -> tuple[int, int] | None:
    """Nanoseconds run and waited, of /proc/PID/schedstat; None for another form."""
    match = re.match(r"(\d{1,20}) (\d{1,20}) \d{1,20}\b", text, re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _field(status: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)$", status, re.MULTILINE)
    return found[1] if found else ""


def _children(tree: HostTree, process: str) -> Iterable[str]:
    pid = process.rpartition("/")[2]
    if pid == "self":
        pid = _field(tree.text(f"{process}/status") or "", "Pid")
    words = (tree.text(f"{process}/task/{pid}/children") or "").split()
    return [one for one in words if one.isdecimal() and one.isascii()][:_MOST_CHILDREN]


def _tasks(tree: HostTree, process: str) -> dict[str, tuple[int, int]]:
    found = {}
    for task in tree.names(f"{process}/task")[:_MOST_TASKS]:
        times = parse_schedstat(tree.text(f"{process}/task/{task}/schedstat") or "")
        if times is not None:
            found[f"{process}/{task}"] = times
    return found


def _major_faults(tree: HostTree, process: str) -> int | None:
    words = (tree.text(f"{process}/stat") or "").rpartition(")")[2].split()
    known = len(words) > _MAJOR_FAULTS and re.fullmatch(r"\d{1,20}", words[_MAJOR_FAULTS], re.ASCII)
    return int(words[_MAJOR_FAULTS]) if known else None


def _sharing(tree: HostTree, status: str, allowed: tuple[int, ...]) -> int:
    """Processes of one parent with one name are the ranks of a launcher."""
    parent, own, name = (_field(status, one) for one in ("PPid", "Pid", "Name"))
    if not parent.isdecimal() or parent == "0":
        return 1
    count = 1
    for sibling in _children(tree, f"/proc/{parent}"):
        if sibling == own:
            continue
        other = tree.text(f"/proc/{sibling}/status") or ""
        if _field(other, "Name") == name and set(parse_cpu_list(_field(other, "Cpus_allowed_list"))) & set(
            allowed
        ):
            count += 1
    return count


def _nodes(tree: HostTree, allowed: tuple[int, ...]) -> tuple[int, ...]:
    names = (one for one in tree.names(_NODES) if re.fullmatch(r"node\d{1,4}", one, re.ASCII))
    return tuple(
        sorted(
            int(name[4:])
            for name in names
            if set(parse_cpu_list(tree.text(f"{_NODES}/{name}/cpulist") or "")) & set(allowed)
        )
    )


def _pressure(text: str | None) -> float | None:
    found = re.match(r"some avg10=(\d{1,3}\.\d{2}) ", text or "", re.ASCII)
    return float(found[1]) / 100 if found else None
