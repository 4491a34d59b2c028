"""Reads what storage does for a process: space, NFS requests, blocked tasks, pages that wait to be written."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.base.time_limit import answer_within
from runner.node.findings import NotRead
from runner.node.host.mounts import parse_mounts
from runner.node.host.mountstats import NfsMount, parse_mountstats
from runner.node.host.tree import HostTree

# What holds files for good. The others live in memory, or are views of the kernel.
_KINDS = re.compile(
    r"ext[234]|xfs|btrfs|zfs|f2fs|overlay|nfs4?|lustre|ceph|gpfs|beegfs|wekafs|pvfs2|orangefs|daos|cifs|smb3|9p|virtiofs"
    r"|fuse(?:blk|\..*)?",
    re.ASCII,
)
_ELSEWHERE = ("/boot", "/snap/", "/var/lib/docker/", "/var/lib/containers/", "/run/")
# A server that is up answers in milliseconds; one that does not, keeps the caller for minutes.
_ANSWER_S = 5.0
_MOST_MOUNTS, _MOST_PROCESSES = 64, 20_000
_KERNEL_THREAD = 0x0020_0000
_STATE, _FLAGS, _SWITCHES = 0, 6, re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d{1,20})$", re.MULTILINE)


@dataclass(frozen=True)
class StorageSpace:
    """A writable file system. Bytes and inodes; `inodes` 0 if it makes them as needed.

    Attributes:
        used: the judged process works in it, or has a file open there for writing.
        silent: it did not answer within 5 s; the numbers are 0.
    """

    place: str
    kind: str
    size: int = 0
    free: int = 0
    inodes: int = 0
    inodes_free: int = 0
    used: bool = False
    silent: bool = False


@dataclass(frozen=True)
class BlockedTask:
    """A process in state D. `waits_in`: the function of the kernel, empty if not told; `switches`: how often it ran."""

    pid: int
    name: str
    waits_in: str
    switches: int


@dataclass(frozen=True, kw_only=True)
class StorageFacts:
    """What was read. None: not known.

    Attributes:
        spaces: writable file systems that keep files; empty for a captured tree.
        nfs: NFS mounts.
        nfs_known: mountstats could be read.
        slots: the most requests that one connection may have under way (`tcp_max_slot_table_entries`).
        session_slots: the same for a session of NFS 4.1 and later (`max_session_slots`).
        blocked: processes in state D; None for a captured tree.
        dirty: bytes that wait to be written, or are being written.
        dirty_limit: bytes above which the kernel stops writers, about.
    """

    spaces: Sequence[StorageSpace] = ()
    nfs: Sequence[NfsMount] = ()
    nfs_known: bool = True
    slots: int | None = None
    session_slots: int | None = None
    blocked: Sequence[BlockedTask] | None = None
    dirty: int | None = None
    dirty_limit: int | None = None
    not_read: tuple[NotRead, ...] = field(default=())


def read_storage(tree: HostTree) -> StorageFacts:
    """The storage of the judged process: its mounts, and of this host its blocked processes."""
    stats = tree.text(f"{tree.process}/mountstats")
    dirty, limit = _dirty(tree)
    live = tree.root is None
    return StorageFacts(
        spaces=tuple(_spaces(tree)) if live else (),
        nfs=parse_mountstats(stats or ""),
        nfs_known=stats is not None,
        slots=tree.number("/proc/sys/sunrpc/tcp_max_slot_table_entries"),
        session_slots=tree.number("/sys/module/nfs/parameters/max_session_slots"),
        blocked=blocked_tasks(Path("/proc")) if live else None,
        dirty=dirty,
        dirty_limit=limit,
        not_read=tuple(tree.not_read),
    )


def blocked_tasks(proc: Path) -> tuple[BlockedTask, ...]:
    """The processes in state D below a folder such as /proc, without kernel threads."""
    pids = sorted(int(one.name) for one in proc.iterdir() if one.name.isdecimal())
    return tuple(found for pid in pids[:_MOST_PROCESSES] if (found := _blocked(proc / str(pid), pid)))


def _blocked(folder: Path, pid: int) -> BlockedTask | None:
    try:
        text = (folder / "stat").read_text(errors="replace")
        # The name is in parentheses, and may have any character but the last `)`.
        name, _, rest = text.partition("(")[2].rpartition(")")
        words = rest.split()
        if words[_STATE] != "D" or int(words[_FLAGS]) & _KERNEL_THREAD:
            return None
        switches = sum(map(int, _SWITCHES.findall((folder / "status").read_text(errors="replace"))))
    except (OSError, ValueError, IndexError):
        # It has ended.
        return None
    try:
        waits_in = (folder / "wchan").read_text(errors="replace").strip("0\n")
    except OSError:
        waits_in = ""
    return BlockedTask(pid, name, waits_in, switches)


def _spaces(tree: HostTree) -> Iterator[StorageSpace]:
    # A tree that captures keeps none of this: it is of this moment, and names private folders.
    here = HostTree(None, tree.pid)
    mounts = parse_mounts(here.text(f"{tree.process}/mountinfo") or "")
    kept = {
        one.place: one
        for one in mounts
        if _KINDS.fullmatch(one.kind) and "ro" not in one.options and not one.place.startswith(_ELSEWHERE)
    }
    inside = "" if tree.pid is None else f"/proc/{tree.pid}/root"
    used = {_mount_of(one, [mount.place for mount in mounts]) for one in _written(here)}
    for place, mount in list(kept.items())[:_MOST_MOUNTS]:
        try:
            found = answer_within(_ANSWER_S, lambda: os.statvfs(f"{inside}{place}"))  # noqa: B023 - called in this turn
        except TimeoutError:
            yield StorageSpace(place, mount.kind, silent=True)
        except OSError as error:
            # A file that is mounted, or what this user may not enter.
            tree.not_read.append(NotRead(place, error.strerror or str(error), matters=False))
        else:
            yield StorageSpace(
                place,
                mount.kind,
                found.f_blocks * found.f_frsize,
                found.f_bavail * found.f_frsize,
                found.f_files,
                found.f_favail,
                place in used,
            )


def _written(tree: HostTree) -> Iterator[str]:
    """The folder in which the process works, and the files that it has open for writing."""
    yield tree.link(f"{tree.process}/cwd") or ""
    for number in tree.names(f"{tree.process}/fd"):
        flags = re.search(
            r"^flags:\s+([0-7]{1,12})$", tree.text(f"{tree.process}/fdinfo/{number}") or "", re.MULTILINE
        )
        if flags and int(flags[1], 8) & os.O_ACCMODE:
            yield tree.link(f"{tree.process}/fd/{number}") or ""


def _mount_of(path: str, places: Sequence[str]) -> str:
    """The mount that holds a path: the longest that it begins with."""
    above = (one for one in places if path == one or path.startswith(one.rstrip("/") + "/"))
    return max(above, key=len, default="")


def _dirty(tree: HostTree) -> tuple[int | None, int | None]:
    text = tree.text("/proc/meminfo") or ""
    found: Mapping[str, int] = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w{1,30}):\s+(\d{1,15}) kB$", text, re.MULTILINE)
    }
    if not {"Dirty", "Writeback"} <= found.keys():
        return None, None
    limit = tree.number("/proc/sys/vm/dirty_bytes") or None
    ratio = tree.number("/proc/sys/vm/dirty_ratio")
    # The kernel takes the ratio of free memory and of pages of files (global_dirtyable_memory in mm/page-writeback.c).
    pages = sum(found.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)"))
    able = found.get("MemAvailable") or pages
    if limit is None and ratio is not None and able:
        limit = able * ratio // 100
    return found["Dirty"] + found["Writeback"], limit
