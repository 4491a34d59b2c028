"""What /proc/PID/mountinfo tells: which file system is mounted where. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")
_SIZE = re.compile(r"(\d{1,18})([kmgt%]?)", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
# Sizes and controllers; the options of a network file system name its server.
_OPTIONS_TOLD = {"tmpfs", "cgroup", "cgroup2"}
# Container runtimes mount the files in /etc of a container from these folders.
_CONTAINERS = ("/kubelet/pods/", "/docker/containers/")
# Before the separator `-`: id, parent, device, root, place, options; after it: kind, source, options.
_BEFORE, _AFTER = 6, 3


@dataclass(frozen=True)
class Mount:
    """One mounted file system.

    Attributes:
        root: the folder of the file system that is mounted.
        place: where it is mounted.
        kind: `tmpfs`, `cgroup2`, …
        options: those of the mount and of the file system.
    """

    root: str
    place: str
    kind: str
    options: tuple[str, ...]


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The mounts in a mountinfo file (proc_pid_mountinfo(5)), in its order. Lines of another form are left out."""
    found = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        before, after = head.split(" "), tail.split(" ")
        if separator and len(before) >= _BEFORE and len(after) >= _AFTER:
            options = (*before[5].split(","), *after[-1].split(","))
            found.append(Mount(_plain(before[3]), _plain(before[4]), after[0], options))
    return tuple(found)


def telling_mounts(text: str) -> str:
    """The lines of a mountinfo file that a verdict depends on, without their sources.

    The others name servers, shares and home folders of users: they are not for a copy that leaves the node.
    """
    kept = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        before, after = head.split(" "), tail.split(" ")
        if not separator or len(before) < _BEFORE or len(after) < _AFTER:
            continue
        told = after[0] in _OPTIONS_TOLD
        if told or before[4] in {"/", "/dev/shm"} or any(mark in before[3] for mark in _CONTAINERS):
            kept.append(f"{head} - {after[0]} none {after[-1] if told else 'rw'}\n")
    return "".join(kept)


def mount_at(mounts: Sequence[Mount], place: str) -> Mount | None:
    """The mount that is seen at a place: the last one, which covers the earlier ones."""
    return next((one for one in reversed(mounts) if one.place == place), None)


def size_option(mount: Mount, memory: int | None) -> int | None:
    """The size of a tmpfs in bytes, as its options say; None without such an option.

    Args:
        mount: the mount.
        memory: bytes of memory of the host, for a size in percent (tmpfs(5)).
    """
    for option in reversed(mount.options):
        name, _, value = option.partition("=")
        found = _SIZE.fullmatch(value) if name == "size" else None
        if found is None:
            continue
        number, unit = int(found[1]), found[2].lower()
        if unit == "%":
            return None if memory is None else memory * number // 100
        return number * _FACTORS[unit]
    return None


def _plain(text: str) -> str:
    # The kernel writes space, tab, newline and backslash as octal numbers.
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
