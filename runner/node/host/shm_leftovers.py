"""Files in /dev/shm that no process uses any more. They are counted, never removed."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# NCCL's segments, PyTorch's tensors, named semaphores of glibc, and segments of Python's multiprocessing.
_NAMES = re.compile(r"(?:nccl-|torch_|sem\.|psm_)")
_MAPPED = re.compile(rb"([0-9a-f]{1,8}):([0-9a-f]{1,8}) (\d{1,20}) +/", re.ASCII)
_MOST_FILES, _MOST_PROCESSES, _MOST_MAP_BYTES = 10_000, 20_000, 64 << 20
# The kernel's own number of the first PID namespace (PROC_PID_INIT_INO in include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True)
class ShmLeftovers:
    """Files of NCCL, PyTorch and multiprocessing in /dev/shm that no visible process maps or has open.

    Attributes:
        count: how many.
        bytes: of memory that they hold.
        unseen: why an owner may exist that was not seen; None if every process could be looked at.
    """

    count: int
    bytes: int
    unseen: str | None


def find_leftovers(folder: Path, proc: Path = Path("/proc")) -> ShmLeftovers | None:
    """The leftovers in a folder of this host; None if it cannot be listed."""
    try:
        candidates = dict(_candidates(folder))
    except OSError:
        return None
    if not candidates:
        return ShmLeftovers(0, 0, None)
    unseen = _why_unseen(proc)
    for process in _processes(proc):
        try:
            for file in _used_by(process):
                candidates.pop(file, None)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            unseen = unseen or "processes of other users could not be looked at; run as root"
        if not candidates:
            break
    return ShmLeftovers(len(candidates), sum(candidates.values()), unseen)


def _candidates(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Device and inode of each file, and the bytes that it holds."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= _MOST_FILES:
                return
            if not _NAMES.match(entry.name):
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield (found.st_dev, found.st_ino), found.st_blocks * 512


def _why_unseen(proc: Path) -> str | None:
    try:
        first = str((proc / "self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        first = False
    return None if first else "processes of other containers are not visible from here"


def _processes(proc: Path) -> Iterator[Path]:
    with os.scandir(proc) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.isdecimal()]
    yield from found[:_MOST_PROCESSES]


def _used_by(process: Path) -> Iterable[tuple[int, int]]:
    """Device and inode of the files that a process maps or has open.

    Raises:
        OSError: it may not be looked at, or has ended.
    """
    with (process / "maps").open("rb") as file:
        text = file.read(_MOST_MAP_BYTES)
    for line in text.split(b"\n"):
        found = _MAPPED.search(line)
        if found:
            yield os.makedev(int(found[1], 16), int(found[2], 16)), int(found[3])
    with os.scandir(process / "fd") as entries:
        for entry in entries:
            try:
                opened = entry.stat()
            except OSError:
                continue
            yield opened.st_dev, opened.st_ino
