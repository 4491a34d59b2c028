"""Sources of NCCL's settings: environments and NCCL's files. Parsing is pure; `read_…` do IO. Unit files: `units`.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE, else ~/.nccl.conf),
else from /etc/nccl.conf: a file does not override an earlier source (NCCL's initEnv). In a file, `#` starts a comment
only as the first character of a line, and spaces belong to names and values. A `~` in $NCCL_CONF_FILE is not expanded,
and a relative path is relative to the process's working directory.

A source that cannot be read is not an error: it gets one line in `Found.unread`.
"""

import os
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.errors import InputError, RunbookError
from runner.placed import PlacedFileError, read_placed
from runner.probes.judged import read_environ
from runner.probes.nccl.files import read_file
from runner.probes.nccl.settings import Origin, Setting

PREFIX = "NCCL_"
_HERE = Path("/")
# The kernel's limit is about 65,000 mappings; a process with torch has a few thousand, of 100 bytes each.
_MOST_MAPS_BYTES = 32 << 20
# Libraries that show that a process uses NCCL: libnccl, or torch's library with NCCL linked in.
_HOLDS_NCCL = re.compile(rb"/lib(?:nccl|torch_cuda)[^/\n]*\.so")


@dataclass(frozen=True)
class Found:
    """NCCL settings, and the sources that could not be read: `PATH: why`, one line each."""

    settings: list[Setting]
    unread: list[str]


def parse_conf(text: str, source: str) -> list[Setting]:
    """Read the text of an NCCL file as NCCL does: `NAME=value` lines, names and values verbatim."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and name.strip().startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.FILE, line=number))
    return found


def parse_environment(data: bytes, source: str) -> list[Setting]:
    """Read a process's environment as given by the kernel: `NAME=value` separated by zero bytes."""
    found = []
    for item in data.split(b"\0"):
        name, equals, value = item.decode(errors="replace").partition("=")
        if equals and name.startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.PROCESS))
    return found


def home_of(user: int) -> Path:
    """A user's home as NCCL finds it: from the user database, not from HOME."""
    try:
        return Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def read_settings(
    own: Iterable[Setting],
    home: Path,
    system: Path = Path("/etc/nccl.conf"),
    root: Path = _HERE,
    working: Path = Path(),
) -> Found:
    """Every NCCL setting that a process would see, the effective one first.

    Args:
        own: settings in its environment.
        home: home of its user.
        system: the system's file.
        root: the root file system of the process, such as `/proc/17/root` for one in a container.
        working: its working directory, within that file system.
    """
    found = list(own)
    unread: list[str] = []
    named = next((setting for setting in found if setting.name == "NCCL_CONF_FILE" and setting.value), None)
    user = Path(named.value) if named else home / ".nccl.conf"
    for path in (user, system):
        place = working / path
        if root == _HERE:
            shown = f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(place)
            content = read_file(place)
        else:
            shown = str(root / str(place).lstrip("/"))
            content = read_file(place, root)
        if content.text is not None:
            found += parse_conf(content.text, shown)
        elif named is not None and path == user and not content.special:
            found[found.index(named)] = replace(named, dangling=True)
        if content.why and not content.missing:
            unread.append(f"{shown}: {content.why}")
    seen: set[str] = set()
    settings = []
    for setting in found:
        settings.append(replace(setting, shadowed=setting.name in seen))
        seen.add(setting.name)
    return Found(settings, unread)


def read_own(environment: Mapping[str, str], home: Path) -> Found:
    """The settings that a job started from this process would see."""
    own = [
        Setting(name, value, "environment")
        for name, value in sorted(environment.items())
        if name.startswith(PREFIX)
    ]
    return read_settings(own, home)


def read_process(pid: int, proc: Path = Path("/proc")) -> Found:
    """The settings of a running process: its initial environment, and the files in its file system.

    Variables that a program sets after its start are not visible.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to another user.
    """
    folder = proc / str(pid)
    own = parse_environment(read_environ(pid, proc), f"process {pid}")
    try:
        user = folder.stat().st_uid
        root, working = (folder / "root").readlink(), (folder / "cwd").readlink()
        same = root == Path("/") and (folder / "ns/mnt").readlink() == (proc / "self/ns/mnt").readlink()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise InputError(f"there is no process {pid}; ps -e lists the running ones") from error
    except PermissionError as error:
        raise RunbookError(
            f"no permission to read the environment of process {pid}; run this as its user, or as root"
        ) from error
    if same:
        return read_settings(own, home_of(user), working=folder / "cwd")
    # The path as seen by the process; a folder outside its root has none.
    within = Path("/", working.relative_to(root)) if working.is_relative_to(root) else Path("/proc/none")
    return read_settings(own, home_of(user), root=folder / "root", working=within)


def running_jobs(proc: Path = Path("/proc")) -> tuple[list[int], int]:
    """Other processes that have NCCL or torch's CUDA library loaded, and the number that could not be read."""
    found, closed = [], 0
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            maps = read_placed(folder / "maps", _MOST_MAPS_BYTES)
        except PlacedFileError as error:
            closed += error.kind != "missing"
            continue
        if _HOLDS_NCCL.search(maps):
            found.append(int(folder.name))
    return sorted(found), closed
