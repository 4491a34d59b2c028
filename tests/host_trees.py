"""Captured trees of hosts and containers: the files of /proc, /sys and the control groups, written anew."""

from collections.abc import Mapping
from pathlib import Path

GIB, KIB = 1 << 30, 1 << 10
_LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max stack size            8388608              unlimited            bytes
Max processes             {processes:<20} {processes:<20} processes
Max open files            {soft:<20} {hard:<20} files
Max locked memory         {locked:<20} {locked:<20} bytes
Max nice priority         0                    0
"""
_USER, _ROOT = "0000000000000000", "000001ffffffffff"


def limits(soft: object = 1024, hard: object = 524288, locked: object = 8388608) -> str:
    return _LIMITS.format(soft=soft, hard=hard, locked=locked, processes=127000)


def mountinfo(shm: str, cgroups: str) -> str:
    lines = [
        "21 26 0:20 / /proc rw,nosuid - proc proc rw",
        f"24 22 0:22 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw{shm}" if shm != "none" else "",
        *cgroups.splitlines(),
    ]
    return "\n".join(one for one in lines if one)


CGROUP2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def host(
    *,
    gpus: int = 0,
    ports: int = 0,
    shm: str = "",
    group: str = "0::/user.slice/user-1000.slice/session-3.scope",
    cgroups: str = CGROUP2,
    text: str | None = None,
    memory: int = 64 * GIB,
    root: bool = False,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The files of a sound host; `more` adds or replaces some."""
    files = {
        "proc/self/limits": text or limits(),
        "proc/self/mountinfo": mountinfo(shm, cgroups),
        "proc/self/cgroup": group,
        "proc/self/status": f"Name:\tpython3\nCapEff:\t{_ROOT if root else _USER}\n",
        "proc/self/uid_map": "         0          0 4294967295",
        "proc/meminfo": f"MemTotal:       {memory // KIB} kB\nSwapTotal:             0 kB\n",
        "proc/sys/fs/file-nr": "2912\t0\t9223372036854775807",
        "dev/null": "",
        **{f"dev/nvidia{number}": "" for number in range(gpus)},
    }
    for number in range(ports):
        files[f"dev/infiniband/uverbs{number}"] = ""
        files[f"sys/class/infiniband/mlx5_{number}/ports/1/state"] = "4: ACTIVE"
    if cgroups == CGROUP2 and group.startswith("0::"):
        files |= groups_2(group[3:], {})
    return files | dict(more or {})


def groups_2(path: str, files: Mapping[str, str]) -> dict[str, str]:
    """Control groups of version 2 without limits along a path; `files` of its last one."""
    made, folder = {}, "sys/fs/cgroup" + path.rstrip("/")
    for name, content in {
        "memory.max": "max",
        "memory.high": "max",
        "memory.current": "500000000",
        "memory.stat": "anon 400000000\nfile 90000000\nshmem 0",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0",
        "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0",
        "pids.max": "max",
        "pids.current": "120",
        "pids.events": "max 0",
        "cpu.max": "max 100000",
        "cpu.stat": "usage_usec 1000\nnr_periods 0\nnr_throttled 0",
        **files,
    }.items():
        made[f"{folder}/{name}"] = content
    while folder != "sys/fs/cgroup":
        folder = folder.rpartition("/")[0]
        made[f"{folder}/cgroup.controllers"] = "cpu memory pids"
    return made


def plant(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content + "\n", encoding="utf-8")
    return folder
