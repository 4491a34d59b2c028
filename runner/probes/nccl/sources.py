"""Where NCCL's settings come from: environments, NCCL's files, unit files. Parsing is pure; `read_…` look.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE, else ~/.nccl.conf),
else from /etc/nccl.conf: a file never overrides what is set before it (NCCL's initEnv). In a file `#` begins a comment
only as the first character of a line, and spaces belong to names and values. A `~` in $NCCL_CONF_FILE is not expanded,
and a relative path there starts from the process's working folder.

What should be read and cannot be is never an error here: it is said, one line each, in `Found.unread`.
"""

import glob
import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Found:
    """NCCL settings, and the places that could not be read: `PATH: why`, a line each."""

    settings: list[Setting]
    unread: list[str]


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
    own: Iterable[Setting],
    home: Path,
    system: Path = Path("/etc/nccl.conf"),
    root: Path = Path("/"),
    working: Path = Path(),
) -> Found:
    """Every NCCL setting that a process would see, the winning one first.

    Args:
        own: what its environment has.
        home: of its user.
        system: the system's file.
        root: the file system that the process sees, such as `/proc/17/root` for one in a container.
        working: its working folder.
    """
    found = list(own)
    unread: list[str] = []
    named = next((setting for setting in found if setting.name == "NCCL_CONF_FILE" and setting.value), None)
    user = Path(named.value) if named else home / ".nccl.conf"
    for path in (user, system):
        inside = root / str(path).lstrip("/") if path.is_absolute() else working / path
        shown = str(inside)
        if root == Path("/") and path.is_relative_to(home):
            shown = f"~/{path.relative_to(home)}"
        content = _read(inside)
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
    root = Path("/") if same else folder / "root"
    return read_settings(own, home_of(user), root=root, working=folder / "cwd")


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


def read_units(folders: Iterable[Path] = UNIT_FOLDERS) -> Found:
    """NCCL settings of the systemd units in these folders, each file once however many links lead to it."""
    found: list[Setting] = []
    unread: list[str] = []
    seen: set[str] = set()
    for folder in folders:
        for path in _unit_files(folder, unread):
            content = _read_once(path, seen, unread)
            settings, files = parse_unit(content.text or "", str(path))
            found += settings
            for named in files:
                for place in _environment_files(named, path, unread):
                    found += parse_environment_file(_read_once(place, seen, unread).text or "", str(place))
    return Found(found, unread)


def _unit_files(folder: Path, unread: list[str]) -> list[Path]:
    def closed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            unread.append(f"{error.filename}: {error.strerror}")

    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=closed)
        for name in names
        if name.endswith((".service", ".conf"))
    )


def _environment_files(named: str, unit: Path, unread: list[str]) -> list[Path]:
    """The files that `EnvironmentFile=` means: an absolute path, wildcards as in glob(7), `-` before it if optional."""
    pattern = named.removeprefix("-")
    if not pattern.startswith("/") or "%" in pattern:
        why = "has a specifier that only systemd fills in" if "%" in pattern else "is not an absolute path"
        unread.append(f"{unit}: EnvironmentFile={named} {why}")
        return []
    try:
        places = sorted(Path(place) for place in glob.glob(pattern))  # noqa: PTH207 - Path.glob refuses what glob(7) takes
    except (OSError, ValueError, re.error) as error:
        unread.append(f"{unit}: EnvironmentFile={named} cannot be looked for: {error}")
        return []
    if not places and not named.startswith("-"):
        unread.append(f"{unit}: EnvironmentFile={named} is not there, so systemd does not start this unit")
    return places


@dataclass(frozen=True)
class _Content:
    """A file's text; None where it is missing, no regular file (`special`: and no folder), or closed to this user."""

    text: str | None = None
    why: str | None = None
    missing: bool = False
    special: bool = False


def _read_once(path: Path, seen: set[str], unread: list[str]) -> _Content:
    """The content of a file that was not read before. A link that leads nowhere is passed over, as systemd does."""
    real = os.path.realpath(path)
    if real in seen:
        return _Content()
    seen.add(real)
    content = _read(path)
    # A masked unit is a link to /dev/null.
    if content.why and not content.missing and real != os.devnull:
        unread.append(f"{path}: {content.why}")
    return content


def _read(path: Path) -> _Content:
    try:
        mode = path.stat().st_mode
        # Opening a pipe waits for whoever writes to it.
        if not stat.S_ISREG(mode):
            return _Content(why="is not a regular file", special=not stat.S_ISDIR(mode))
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        return _Content(why=error.strerror, missing=True)
    except (OSError, ValueError) as error:
        return _Content(why=error.strerror if isinstance(error, OSError) else str(error))
    why = f"only its first {_MOST_BYTES >> 20} MiB was read" if len(data) > _MOST_BYTES else None
    return _Content(data[:_MOST_BYTES].decode(errors="replace"), why)
