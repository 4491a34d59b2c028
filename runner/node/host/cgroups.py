"""Which control groups a process is in, and where their files are. Versions 1 and 2, nested, and in namespaces."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.base.plain import one_line
from runner.node.host.mounts import Mount

_MOST_LEVELS = 64
# Version 1 says "no limit" with the largest multiple of the page size that a signed 64-bit number holds.
_NO_LIMIT = 1 << 60
_IDENTIFIERS = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{12,}", re.ASCII)
_SHOWN = 60


@dataclass(frozen=True)
class CgroupFolders:
    """The folders of one controller that bind a process, its own group first, then each group above it.

    Attributes:
        version: of the hierarchy, 1 or 2.
        folders: absolute paths.
        hidden: groups above the last folder are not visible from here: a container sees its own group as the root.
    """

    version: int
    folders: tuple[str, ...]
    hidden: bool


def parse_membership(text: str) -> Mapping[str, str]:
    """The group of a process by controller, from /proc/PID/cgroup; version 2 has the empty name (cgroups(7))."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        number, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if first and second and number.isdecimal() and path.startswith("/"):
            found |= dict.fromkeys(controllers.split(","), path)
    return found


def folders_of(
    controller: str, groups: Mapping[str, str], mounts: Sequence[Mount], exists: Callable[[str], bool]
) -> CgroupFolders | None:
    """Where the files of a controller are for a process; None if no mounted hierarchy shows its group.

    Args:
        controller: `memory`, `pids`, `cpu`.
        groups: from `parse_membership`.
        mounts: of the reader, which sees the hierarchies; not of the judged process.
        exists: whether a folder is there.
    """
    version = 1 if controller in groups else 2
    group = groups.get(controller if version == 1 else "")
    if group is None:
        return None
    for mount in mounts:
        if mount.kind != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and controller not in mount.options:
            continue
        for within, hidden in _within(group, mount.root):
            if exists(mount.place + within):
                return CgroupFolders(version, _upwards(mount.place, within), hidden)
    return None


def _within(group: str, root: str) -> tuple[tuple[str, bool], ...]:
    """The group as a path below the mount, likeliest first, and whether groups above it are hidden."""
    if ".." in group.split("/"):
        # Outside of the reader's cgroup namespace: another group would be read under its name.
        return ()
    same = group.rstrip("/")
    # A container may mount its own group alone, and still have the group's full path.
    below = ((same[len(root) :], True),) if same == root or same.startswith(f"{root}/") else ()
    return ((same, not same), *below)


def _upwards(place: str, within: str) -> tuple[str, ...]:
    parts = [one for one in within.split("/") if one][:_MOST_LEVELS]
    return tuple("/".join((place, *parts[:count])) for count in range(len(parts), -1, -1))


def limit_of(text: str | None) -> int | None:
    """A limit in a control group's file; None for none (`max`, or version 1's largest number)."""
    if text is None or not re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII):
        return None
    value = int(text)
    return None if value >= _NO_LIMIT else value


def parse_counters(text: str | None) -> Mapping[str, int]:
    """Lines `name number`, as in memory.events, memory.stat and cpu.stat; other lines are left out."""
    found = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if re.fullmatch(r"\d{1,20}", value.strip(), re.ASCII):
            found[name] = int(value)
    return found


def shown_group(folder: str, level: int) -> str:
    """A group for the reader, without the identifiers of pods and containers."""
    if level == 0:
        return "this control group"
    name = _IDENTIFIERS.sub("…", one_line(folder.rpartition("/")[2]))[:_SHOWN]
    return f"the control group above it, {name}" if level == 1 else f"{name}, {level} control groups above"
