"""Sources of NCCL's settings: environments and NCCL's files. Parsing is pure; `read_…` do IO. Unit files: `units`.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE from 2.23 on, else
.nccl.conf in the user's home), else from /etc/nccl.conf: a file does not override an earlier source (NCCL's initEnv).
The home is $HOME from 2.30 on, and that of the user database before; under `sudo -E` and in containers they differ. A
`~` in $NCCL_CONF_FILE is not expanded, and a relative path is relative to the process's working directory.

In a file, `#` starts a comment only as the first character of a line, and spaces belong to names and values; 2.30 drops
a carriage return at the end of a line.

A source that cannot be read is not an error: it gets one line in `Found.unread`.
"""

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.base.environment import read_environ
from runner.base.errors import InputError, RunbookError
from runner.base.placed import PlacedFileError, placed_file
from runner.kit.nccl.names import PREFIX, Version
from runner.kit.nccl.settings import NcclSetting, Origin
from runner.kit.nccl.version import holds_nccl, loaded_version, read_maps

_HERE = Path("/")
_MOST_BYTES = 1 << 20
_HOME_OF_ENVIRONMENT = (2, 30)
_NAMED_FILE = (2, 23)


@dataclass(frozen=True)
class Found:
    """NCCL settings and their sources.

    Attributes:
        settings: the settings.
        unread: the sources that could not be read: `PATH: why`, one line each.
        version: the NCCL version that reads them; None if it is not known.
    """

    settings: list[NcclSetting]
    unread: list[str]
    version: Version | None = None


@dataclass(frozen=True)
class Content:
    """A file's text; None if it is missing, not a regular file (`special`: nor a folder), or not readable."""

    text: str | None = None
    why: str | None = None
    missing: bool = False
    special: bool = False


def read_file(path: Path, root: Path | None = None) -> Content:
    """The content of a regular file of unknown origin, up to a maximum size. Never blocks and never raises.

    Args:
        path: the file.
        root: the root file system of the path, if it differs from this process's.
    """
    try:
        with placed_file(path, root=root) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MOST_BYTES + 1)
    except PlacedFileError as error:
        return Content(why=error.why, missing=error.kind == "missing", special=error.kind == "special")
    why = f"only its first {_MOST_BYTES >> 20} MiB was read" if len(data) > _MOST_BYTES else None
    return Content(data[:_MOST_BYTES].decode(errors="replace"), why)


def parse_conf(text: str, source: str, version: Version | None = None) -> list[NcclSetting]:
    """Read the text of an NCCL file as this version does: `NAME=value` lines, names and values verbatim."""
    found = []
    drops_return = version is not None and version >= _HOME_OF_ENVIRONMENT
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r") if drops_return else raw
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and name.strip().startswith(PREFIX):
            found.append(NcclSetting(name, value, source, Origin.FILE, line=number))
    return found


def parse_environment(data: bytes, source: str) -> list[NcclSetting]:
    """Read a process's environment as given by the kernel: `NAME=value` separated by zero bytes."""
    found = []
    for item in data.split(b"\0"):
        name, equals, value = item.decode(errors="replace").partition("=")
        if equals and name.startswith(PREFIX):
            found.append(NcclSetting(name, value, source, Origin.PROCESS))
    return found


def home_of(user: int) -> Path:
    """A user's home in the user database."""
    try:
        return Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def homes(variable: str | None, of_user: Path, version: Version | None) -> tuple[Path, ...]:
    """The folders in which NCCL may look for the user's file: one, or both if its version is not known.

    Args:
        variable: HOME in the environment of the process.
        of_user: the home of its user in the user database.
        version: the NCCL version, if known.
    """
    named = (Path(variable),) if variable else ()
    if version is None:
        return tuple(dict.fromkeys((*named, of_user)))
    return named if version >= _HOME_OF_ENVIRONMENT else (of_user,)


def read_settings(
    own: Iterable[NcclSetting],
    homes: Sequence[Path],
    system: Path = Path("/etc/nccl.conf"),
    root: Path = _HERE,
    working: Path = Path(),
    version: Version | None = None,
    tilde: Path | None = None,
) -> Found:
    """Every NCCL setting that a process would see, the effective one first.

    Args:
        own: settings in its environment.
        homes: the folders in which it may look for the user's file; it looks in one of them.
        system: the system's file.
        root: the root file system of the process, such as `/proc/17/root` for one in a container.
        working: its working directory, within that file system.
        version: the NCCL version of the process, if known.
        tilde: the folder that `~` means in the reader's shell; files in it are shown as `~/…`.
    """
    found = list(own)
    unread: list[str] = []
    in_environment = range(len(found))
    named = next((setting for setting in found if setting.name == "NCCL_CONF_FILE" and setting.value), None)
    if version is not None and version < _NAMED_FILE:
        named = None
    users = [Path(named.value)] if named else [home / ".nccl.conf" for home in homes]
    in_file: dict[Path, range] = {}
    for path in dict.fromkeys((*users, system)):
        place = working / path
        if root == _HERE:
            shown = f"~/{path.relative_to(tilde)}" if tilde and path.is_relative_to(tilde) else str(place)
            content = read_file(place)
        else:
            shown = str(root / str(place).lstrip("/"))
            content = read_file(place, root)
        before = len(found)
        if content.text is not None:
            found += parse_conf(content.text, shown, version)
        elif named is not None and path == users[0] and not content.special:
            found[found.index(named)] = replace(named, dangling=True)
        in_file[path] = range(before, len(found))
        if content.why and not content.missing:
            unread.append(f"{shown}: {content.why}")
    orders = [(*in_environment, *in_file[user], *in_file[system]) for user in users]
    effective = _effective(found, orders or [(*in_environment, *in_file[system])])
    settings = [replace(one, shadowed=place not in effective) for place, one in enumerate(found)]
    return Found(settings, unread, version)


def _effective(settings: Sequence[NcclSetting], orders: Iterable[Iterable[int]]) -> set[int]:
    """The places of the settings that come first of their name in one of the orders."""
    found: set[int] = set()
    for order in orders:
        first: dict[str, int] = {}
        for place in order:
            first.setdefault(settings[place].name, place)
        found |= set(first.values())
    return found


def read_own(environment: Mapping[str, str], home: Path, version: Version | None = None) -> Found:
    """The settings that a job started from this process would see.

    Args:
        environment: of this process.
        home: the home of its user in the user database.
        version: the NCCL version of the job, if known.
    """
    own = [
        NcclSetting(name, value, "environment")
        for name, value in sorted(environment.items())
        if name.startswith(PREFIX)
    ]
    variable = environment.get("HOME")
    tilde = Path(variable) if variable else home
    return read_settings(own, homes(variable, home, version), version=version, tilde=tilde)


def read_process(pid: int, proc: Path = Path("/proc")) -> Found:
    """The settings of a running process: its initial environment, and the files in its file system.

    Variables that a program sets after its start are not visible.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to another user.
    """
    folder = proc / str(pid)
    environment = read_environ(pid, proc)
    own = parse_environment(environment, f"process {pid}")
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
    version = loaded_version(folder)
    places = homes(_variable(environment, "HOME"), home_of(user), version)
    if same:
        tilde = Path(os.environ.get("HOME") or home_of(user)) if user == os.getuid() else None
        return read_settings(own, places, working=folder / "cwd", version=version, tilde=tilde)
    # The path as seen by the process; a folder outside its root has none.
    within = Path("/", working.relative_to(root)) if working.is_relative_to(root) else Path("/proc/none")
    return read_settings(own, places, root=folder / "root", working=within, version=version)


def _variable(environment: bytes, name: str) -> str | None:
    """The value of a variable in an environment as given by the kernel."""
    start = f"{name}=".encode()
    values = [item.removeprefix(start) for item in environment.split(b"\0") if item.startswith(start)]
    return os.fsdecode(values[0]) if values else None


def running_jobs(proc: Path = Path("/proc")) -> tuple[list[int], int]:
    """Other processes that have NCCL or torch's CUDA library loaded, and the number that could not be read."""
    found, closed = [], 0
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            maps = read_maps(folder)
        except PlacedFileError as error:
            closed += error.kind != "missing"
            continue
        if holds_nccl(maps):
            found.append(int(folder.name))
    return sorted(found), closed
