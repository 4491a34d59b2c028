"""NCCL settings in systemd units and their environment files. Parsing is pure; `read_units` does IO."""

import glob
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.kit.nccl.names import PREFIX
from runner.kit.nccl.settings import NcclSetting, Origin
from runner.kit.nccl.sources import Content, Found, read_file

UNIT_FOLDERS = (
    Path("/etc/systemd/system"),
    Path("/run/systemd/system"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/etc/systemd/user"),
)
# A host has a few hundred units, and a unit names one or two files.
_MOST_UNITS, _MOST_FILES = 20_000, 1_000


def parse_unit(text: str, source: str) -> tuple[list[NcclSetting], list[str]]:
    """Read a systemd unit or drop-in: its NCCL settings, and the environment files that it names.

    As in systemd (systemd.exec(5)), an empty `Environment=` resets earlier ones, `UnsetEnvironment=` removes names, and
    an invalid assignment is ignored.
    """
    settings: list[NcclSetting] = []
    files: list[str] = []
    unset: set[str] = set()
    for key, value in _directives(text):
        words = _words(value)
        if key in {"Environment", "DefaultEnvironment"}:
            if not value:
                settings = []
            for name, equals, content in (word.partition("=") for word in words):
                if equals and name.startswith(PREFIX):
                    settings.append(NcclSetting(name, content, source, Origin.UNIT))
        elif key == "EnvironmentFile":
            files = [*files, value] if value else []
        elif key == "UnsetEnvironment":
            unset |= {word.partition("=")[0] for word in words}
    last = {setting.name: setting for setting in settings if setting.name not in unset}
    return list(last.values()), files


def parse_environment_file(text: str, source: str) -> list[NcclSetting]:
    """Read a file of `NAME=value` lines, as named by `EnvironmentFile=`; values may be quoted."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        name, equals, value = line.partition("=")
        if equals and name.strip().startswith(PREFIX):
            words = _words(value)
            found.append(
                NcclSetting(name.strip(), words[0] if words else "", source, Origin.FILE, line=number)
            )
    return found


def _directives(text: str) -> Iterator[tuple[str, str]]:
    """`Key=value` lines of a unit, continuation lines joined, comments removed."""
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


def read_units(folders: Iterable[Path] = UNIT_FOLDERS) -> Found:
    """NCCL settings of the systemd units in these folders; a file with several links is read once."""
    found: list[NcclSetting] = []
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

    found = [
        *itertools.islice(
            (
                Path(place, name)
                for place, _, names in os.walk(folder, onerror=closed)
                for name in names
                if name.endswith((".service", ".conf"))
            ),
            _MOST_UNITS + 1,
        )
    ]
    if len(found) > _MOST_UNITS:
        unread.append(f"{folder}: more than {_MOST_UNITS} unit files; the rest was not read")
    return sorted(found[:_MOST_UNITS])


def _environment_files(named: str, unit: Path, unread: list[str]) -> list[Path]:
    """The files of an `EnvironmentFile=`: an absolute path, wildcards as in glob(7), a leading `-` if optional."""
    pattern = named.removeprefix("-")
    if not pattern.startswith("/") or "%" in pattern:
        why = "has a specifier that only systemd expands" if "%" in pattern else "is not an absolute path"
        unread.append(f"{unit}: EnvironmentFile={named} {why}")
        return []
    try:
        # Path.glob refuses some patterns that glob(7) accepts.
        found = itertools.islice(glob.iglob(pattern), _MOST_FILES + 1)  # noqa: PTH207
        places = sorted(map(Path, found))
    except (OSError, ValueError, re.error) as error:
        unread.append(f"{unit}: EnvironmentFile={named} cannot be searched: {error}")
        return []
    if len(places) > _MOST_FILES:
        unread.append(
            f"{unit}: EnvironmentFile={named} matches more than {_MOST_FILES} files; the rest was not read"
        )
    if not places and not named.startswith("-"):
        unread.append(f"{unit}: EnvironmentFile={named} does not exist, so systemd does not start this unit")
    return places[:_MOST_FILES]


def _read_once(path: Path, seen: set[str], unread: list[str]) -> Content:
    """The content of a file that was not read before. A dangling link is ignored, as in systemd."""
    real = os.path.realpath(path)
    if real in seen:
        return Content()
    seen.add(real)
    content = read_file(path)
    # A masked unit is a link to /dev/null.
    if content.why and not content.missing and real != os.devnull:
        unread.append(f"{path}: {content.why}")
    return content
