"""Where NCCL's settings come from: environments, NCCL's files, unit files. Parsing is pure; `read_…` look.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE, else ~/.nccl.conf),
else from /etc/nccl.conf: a file never overrides what is set before it (NCCL's initEnv). In a file `#` begins a comment
only as the first character of a line, and spaces belong to names and values.
"""

import os
import pwd
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from runner.errors import InputError, RunbookError
from runner.probes.nccl.settings import Origin, Setting

PREFIX = "NCCL_"
UNIT_FOLDERS = (
    Path("/etc/systemd/system"),
    Path("/run/systemd/system"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/etc/systemd/user"),
)
_MOST_BYTES = 1 << 20
# Libraries through which a process that uses NCCL has it: its own, or torch's with NCCL linked in.
_HOLDS_NCCL = re.compile(r"/lib(?:nccl|torch_cuda)[^/\n]*\.so")


def parse_conf(text: str, source: str) -> list[Setting]:
    """Read the text of an NCCL file as NCCL does: `NAME=value` lines, names and values to the letter."""
    found = []
    for line in text.split("\n"):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and name.strip().startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.FILE))
    return found


def parse_environment(data: bytes, source: str) -> list[Setting]:
    """Read a process's environment as the kernel gives it: `NAME=value` between zero bytes."""
    found = []
    for item in data.split(b"\0"):
        name, equals, value = item.decode(errors="replace").partition("=")
        if equals and name.startswith(PREFIX):
            found.append(Setting(name, value, source, Origin.PROCESS))
    return found


def parse_unit(text: str, source: str) -> tuple[list[Setting], list[str]]:
    """Read a systemd unit or drop-in: its NCCL settings, and the environment files that it names.

    An empty `Environment=` forgets what stood before, `UnsetEnvironment=` takes names out, and an assignment that
    does not parse is passed over, all as systemd does (systemd.exec(5)).
    """
    settings: list[Setting] = []
    files: list[str] = []
    unset: set[str] = set()
    for key, value in _directives(text):
        words = _words(value)
        if key in {"Environment", "DefaultEnvironment"}:
            if not value:
                settings = []
            for name, equals, content in (word.partition("=") for word in words):
                if equals and name.startswith(PREFIX):
                    settings.append(Setting(name, content, source, Origin.UNIT))
        elif key == "EnvironmentFile":
            files = [*files, value] if value else []
        elif key == "UnsetEnvironment":
            unset |= {word.partition("=")[0] for word in words}
    last = {setting.name: setting for setting in settings if setting.name not in unset}
    return list(last.values()), files


def parse_environment_file(text: str, source: str) -> list[Setting]:
    """Read a file of `NAME=value` lines such as `EnvironmentFile=` names; values may be quoted."""
    found = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip().startswith(PREFIX):
            words = _words(value)
            found.append(Setting(name.strip(), words[0] if words else "", source, Origin.FILE))
    return found


def _directives(text: str) -> Iterator[tuple[str, str]]:
    """`Key=value` lines of a unit, continued lines joined, comments left out."""
    whole = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue
        whole += line.removesuffix("\\")
        if line.endswith("\\"):
            whole += " "
            continue
        key, equals, value = whole.partition("=")
        if equals:
            yield key.strip(), value.strip()
        whole = ""


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        return []


def home_of(user: int) -> Path:
    """A user's home as NCCL finds it: by the user database, whatever HOME says."""
    try:
        return Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def read_settings(
    own: Iterable[Setting], home: Path, system: Path = Path("/etc/nccl.conf"), root: Path = Path("/")
) -> list[Setting]:
    """Every NCCL setting that a process would see, the winning one first.

    Args:
        own: what its environment has.
        home: of its user.
        system: the system's file.
        root: the file system that the process sees, such as `/proc/17/root` for one in a container.
    """
    found = list(own)
    named = next((setting for setting in found if setting.name == "NCCL_CONF_FILE" and setting.value), None)
    user = Path(named.value).expanduser() if named else home / ".nccl.conf"
    for path in (user, system):
        shown = f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
        inside = root / path.relative_to("/") if path.is_absolute() else path
        if root != Path("/"):
            shown = str(inside)
        text = _read(inside)
        if text is not None:
            found += parse_conf(text, shown)
        elif named is not None and path == user:
            found[found.index(named)] = replace(named, dangling=True)
    seen: set[str] = set()
    settings = []
    for setting in found:
        settings.append(replace(setting, shadowed=setting.name in seen))
        seen.add(setting.name)
    return settings


def read_own(environment: Mapping[str, str], home: Path) -> list[Setting]:
    """What a job started from here would see."""
    own = [
        Setting(name, value, "environment")
        for name, value in sorted(environment.items())
        if name.startswith(PREFIX)
    ]
    return read_settings(own, home)


def read_process(pid: int, proc: Path = Path("/proc")) -> list[Setting]:
    """What a running process sees: the environment it was started with, and the files in its own file system.

    What a program sets for itself after its start does not show there.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to somebody else.
    """
    folder = proc / str(pid)
    try:
        own = parse_environment((folder / "environ").read_bytes(), f"process {pid}")
        user = folder.stat().st_uid
        same = (folder / "root").readlink() == Path("/") and (
            (folder / "ns/mnt").readlink() == (proc / "self/ns/mnt").readlink()
        )
    except (FileNotFoundError, ProcessLookupError) as error:
        raise InputError(f"there is no process {pid}; ps -e lists those that run") from error
    except PermissionError as error:
        raise RunbookError(
            f"the environment of process {pid} is closed to this user; run this as its user or as root"
        ) from error
    return read_settings(own, home_of(user), root=Path("/") if same else folder / "root")


def running_jobs(proc: Path = Path("/proc")) -> tuple[list[int], int]:
    """Processes that hold NCCL or torch's CUDA library, this one apart, and how many could not be looked at."""
    found, closed = [], 0
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            maps = (folder / "maps").read_text(encoding="utf-8", errors="replace")
        except PermissionError:
            closed += 1
            continue
        except OSError:
            continue
        if _HOLDS_NCCL.search(maps):
            found.append(int(folder.name))
    return sorted(found), closed


def read_units(folders: Iterable[Path] = UNIT_FOLDERS) -> list[Setting]:
    """NCCL settings of the systemd units in these folders, each file once however many links lead to it."""
    found: list[Setting] = []
    seen: set[Path] = set()
    for folder in folders:
        for path in sorted((*folder.rglob("*.service"), *folder.rglob("*.conf"))):
            real = path.resolve()
            if real in seen or not real.is_file():
                continue
            seen.add(real)
            settings, files = parse_unit(_read(path) or "", str(path))
            found += settings
            for pattern in files:
                for named in sorted(Path("/").glob(pattern.removeprefix("-").lstrip("/"))):
                    if named not in seen and named.is_file():
                        seen.add(named)
                        found += parse_environment_file(_read(named) or "", str(named))
    return found


def _read(path: Path) -> str | None:
    """The text of a file; None where it is not there or closed to this user."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return None
