"""Where NCCL's settings come from: environments and NCCL's files. Parsing is pure; `read_…` look. Unit files: `units`.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE, else ~/.nccl.conf),
else from /etc/nccl.conf: a file never overrides what is set before it (NCCL's initEnv). In a file `#` begins a comment
only as the first character of a line, and spaces belong to names and values. A `~` in $NCCL_CONF_FILE is not expanded,
and a relative path there starts from the process's working folder.

What should be read and cannot be is never an error here: it is said, one line each, in `Found.unread`.
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
# Some 65,000 mappings are the kernel's bound; a process with torch has a few thousand, of 100 bytes each.
_MOST_MAPS_BYTES = 32 << 20
# Libraries through which a process that uses NCCL has it: its own, or torch's with NCCL linked in.
_HOLDS_NCCL = re.compile(rb"/lib(?:nccl|torch_cuda)[^/\n]*\.so")


@dataclass(frozen=True)
class Found:
    """NCCL settings, and the places that could not be read: `PATH: why`, a line each."""

    settings: list[Setting]
    unread: list[str]


def parse_conf(text: str, source: str) -> list[Setting]:
    """Read the text of an NCCL file as NCCL does: `NAME=value` lines, names and values to the letter."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and name.strip().startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.FILE, line=number))
    return found


def parse_environment(data: bytes, source: str) -> list[Setting]:
    """Read a process's environment as the kernel gives it: `NAME=value` between zero bytes."""
    found = []
    for item in data.split(b"\0"):
        name, equals, value = item.decode(errors="replace").partition("=")
        if equals and name.startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.PROCESS))
    return found


def home_of(user: int) -> Path:
    """A user's home as NCCL finds it: by the user database, whatever HOME says."""
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
    """Every NCCL setting that a process would see, the winning one first.

    Args:
        own: what its environment has.
        home: of its user.
        system: the system's file.
        root: the file system that the process sees, such as `/proc/17/root` for one in a container.
        working: its working folder, within that file system.
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
    """What a job started from here would see."""
    own = [
        Setting(name, value, "environment")
        for name, value in sorted(environment.items())
        if name.startswith(PREFIX)
    ]
    return read_settings(own, home)


def read_process(pid: int, proc: Path = Path("/proc")) -> Found:
    """What a running process sees: the environment it was started with, and the files in its own file system.

    What a program sets for itself after its start does not show there.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to somebody else.
    """
    folder = proc / str(pid)
    own = parse_environment(read_environ(pid, proc), f"process {pid}")
    try:
        user = folder.stat().st_uid
        root, working = (folder / "root").readlink(), (folder / "cwd").readlink()
        same = root == Path("/") and (folder / "ns/mnt").readlink() == (proc / "self/ns/mnt").readlink()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise InputError(f"there is no process {pid}; ps -e lists those that run") from error
    except PermissionError as error:
        raise RunbookError(
            f"process {pid} is closed to this user; run this as its user or as root"
        ) from error
    if same:
        return read_settings(own, home_of(user), working=folder / "cwd")
    # As the process itself calls it; a folder outside its root has no name there.
    within = Path("/", working.relative_to(root)) if working.is_relative_to(root) else Path("/proc/none")
    return read_settings(own, home_of(user), root=folder / "root", working=within)


def running_jobs(proc: Path = Path("/proc")) -> tuple[list[int], int]:
    """Processes that hold NCCL or torch's CUDA library, this one apart, and how many could not be looked at."""
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
