"""Starts the bundle: unpacks the wheels that fit this Python into a cache folder, once, and runs `runbook` from there.

The folder is a virtual environment made by hand (a link to the interpreter, `pyvenv.cfg`, `site-packages`), so a step's
`python` is that environment's, has what the bundle brings, and sees the node's own packages behind it: its torch.
Before every use each file is compared with its digest in the bundle. Standard library alone.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

MANIFEST = "manifest.json"
NAME = "llm-runbooks"
_CANNOT = 3
_INTERRUPTED = 130
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
# The owner that a user namespace (a rootless container) shows for root's folders outside of it.
_OVERFLOW_ID = 65534
# Makes this program exit with 0 or with a line of its own, as the README says of them.
_PROLOG = "--prolog"
_DRAINING = ("prolog_slurmd", "epilog_slurmd")


class StartError(Exception):
    """Why the bundle cannot run here: one line."""


def main() -> NoReturn:
    """Replace this process by `runbook` with the same arguments."""
    try:
        python = environment(Path(sys.path[0]))
        os.execv(python, [str(python), "-I", "-m", "runner.cli.main", *sys.argv[1:]])  # noqa: S606 - no shell is wanted
    except (StartError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("runbook: interrupted\n")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file leads to, it is one line
        _fail(f"{sys.path[0]} is damaged ({type(error).__name__}: {error}); copy it again")


def environment(bundle: Path) -> Path:
    """The Python of an environment that holds exactly what the bundle brings for this interpreter.

    Raises:
        StartError: nothing in the bundle fits, or no folder takes it.
    """
    with zipfile.ZipFile(bundle) as archive:
        text = archive.read(MANIFEST)
        manifest = json.loads(text)
        wheels = fitting(manifest)
        files = {name: digest for wheel in wheels for name, digest in manifest["wheels"][wheel].items()}
        key = hashlib.sha256(b"\0".join([text, *map(os.fsencode, _interpreter())])).hexdigest()[:24]
        refused = []
        # The user's own mask may let others write to what is made here; `runbook` gets it back.
        mask = os.umask(0o077)
        try:
            for base in _bases():
                try:
                    _demand_own(base)
                    return _made(archive, wheels, files, base / key)
                except OSError as error:
                    refused.append(f"{base} ({error.strerror or error})")
        finally:
            os.umask(mask)
    raise StartError(
        f"cannot unpack into {' or '.join(refused)}; set XDG_CACHE_HOME to a folder with 50 MB free"
    )


def target() -> str:
    """What wheels are chosen by: `cp312-x86_64`."""
    return f"cp{sys.version_info[0]}{sys.version_info[1]}-{os.uname().machine}"


def fitting(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the wheels for this Python and machine.

    Raises:
        StartError: the bundle has none.
    """
    here = target()
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise StartError(
            f"{sys.executable} is not the standard CPython; run this with a standard Python 3.11 or newer"
        )
    if here not in manifest["targets"]:
        known = ", ".join(manifest["targets"])
        raise StartError(f"this bundle has nothing for {here}, only for {known}; run it with another Python")
    least = tuple(manifest["glibc"])
    if _glibc() < least:
        raise StartError(
            f"this bundle needs glibc {'.'.join(map(str, least))} or newer; install the wheel instead"
        )
    return list(manifest["targets"][here])


def _glibc() -> tuple[int, ...]:
    try:
        # "glibc 2.36"; musl does not know the name.
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(int(part) for part in words[-1].split(".")) if words else (0,)
    except ValueError:
        return (0,)


def _interpreter() -> tuple[str, ...]:
    """What an environment depends on: the interpreter, and the packages of a virtual environment around it."""
    if not sys.executable:
        raise StartError("Python does not know where it is; run it by its path: /usr/bin/python3")
    base = getattr(sys, "_base_executable", None) or sys.executable
    around = (
        []
        if sys.prefix == sys.base_prefix
        else [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    )
    return (target(), sys.version, str(base), *dict.fromkeys(around))


def _bases() -> Iterator[Path]:
    """Folders that may hold the environment, best first."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = os.environ.get("HOME", "unset") and os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises for a user without a home
    for folder in (given, home and os.path.join(home, ".cache")):  # noqa: PTH118 - an empty name stays empty
        if folder.startswith("/"):
            yield Path(folder) / NAME / "bundle"
            break
    # mkdir decides whose it is; `_demand_own` refuses one that is not this user's.
    yield Path(tempfile.gettempdir()) / f"{NAME}-bundle-{os.geteuid()}"


def _demand_own(base: Path) -> None:
    """Make the folder, for this user alone.

    Raises:
        OSError: it cannot be made, others can write to it or replace it, or nothing in it could be loaded.
    """
    # Before anything is made: under sudo, HOME may still be another user's, who could replace what root runs.
    if os.geteuid() == 0:
        for folder in base.resolve().parents:
            if folder.exists() and folder.stat().st_uid not in {0, _OVERFLOW_ID}:
                raise OSError(f"{folder} belongs to another user")
    base.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
        raise OSError("not a folder that only this user can write to")
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        raise OSError("mounted noexec")


def _made(archive: zipfile.ZipFile, wheels: list[str], files: Mapping[str, str], place: Path) -> Path:
    """The Python of the environment at this place, made first where it is missing or differs from the bundle."""
    python = place / "bin" / "python"
    if _whole(place, files):
        return python
    with (place.parent / ".lock").open("a") as lock:
        # A file system without locks costs no more than a second unpacking: what is made is put in place as a whole.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Left by a start that was killed: who holds the lock is the only one that unpacks.
            for left in place.parent.glob(".new-*"):
                shutil.rmtree(left, ignore_errors=True)
        if _whole(place, files):
            return python
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
        try:
            _unpack(archive, wheels, files, new)
            if os.path.lexists(place):
                # Aside before it is removed: no process finds half of it in its place.
                place.rename(new / "old")
            with contextlib.suppress(FileExistsError):
                _put(new / "environment", place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    if not _whole(place, files):
        raise OSError("what was unpacked there is not what the bundle holds")
    return python


def _put(new: Path, place: Path) -> None:
    try:
        new.rename(place)
    except OSError as error:
        # Another process was first.
        if not place.is_dir():
            raise
        raise FileExistsError from error


def _unpack(archive: zipfile.ZipFile, wheels: list[str], files: Mapping[str, str], new: Path) -> None:
    root = new / "environment"
    packages = _packages(root)
    packages.mkdir(parents=True)
    (root / "bin").mkdir()
    for wheel in wheels:
        with archive.open(wheel) as file, zipfile.ZipFile(file) as packed:
            for name in packed.namelist():
                if name not in files:
                    continue
                if name.startswith("/") or ".." in PurePosixPath(name).parts:
                    raise StartError(f"{wheel} has a file {name!r}; copy the bundle again")
                path = packages / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.read(name))
    for name, text in _own_files().items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "bin" / "runbook").chmod(0o755)
    for name in ("python", "python3"):
        (root / "bin" / name).symlink_to(_interpreter()[2])


def _packages(root: Path) -> Path:
    return root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _own_files() -> dict[str, str]:
    """What makes the folder a virtual environment: name below it → text."""
    _, _, base, *around = _interpreter()
    packages = _packages(Path()).as_posix()
    version = ".".join(map(str, sys.version_info[:3]))
    config = f"home = {Path(base).parent}\ninclude-system-site-packages = true\nversion = {version}\n"
    start = '#!/bin/sh\nexec "${0%/*}/python" -I -m runner.cli.main "$@"\n'
    # The packages of a virtual environment that the bundle is run with come behind the bundle's own.
    behind = {f"{packages}/node.pth": "".join(f"{one}\n" for one in around)} if around else {}
    return {"pyvenv.cfg": config, "bin/runbook": start, **behind}


def _whole(place: Path, files: Mapping[str, str]) -> bool:
    """Whether each file is there as it should be, and nothing beside them that Python would import.

    What Python compiled for itself (`__pycache__`) is not looked at; only this user can write there.
    """
    packages = _packages(place)
    try:
        own = all((place / name).read_text(encoding="utf-8") == text for name, text in _own_files().items())
        link = os.readlink(place / "bin" / "python")  # noqa: PTH115 - as it is written
        there = {PurePosixPath(name).name for name in _own_files() if name.endswith(".pth")}
        if not own or link != _interpreter()[2] or _listed(packages) != there | files.keys():
            return False
        return all(
            hashlib.sha256((packages / name).read_bytes()).hexdigest() == digest
            for name, digest in files.items()
        )
    except (OSError, UnicodeDecodeError):
        return False


def _listed(packages: Path) -> set[str]:
    """Names of the files and of the links in a folder and below it, less what Python compiled for itself."""
    found = set()
    for folder, below, names in os.walk(packages):
        below[:] = [name for name in below if name != "__pycache__"]
        links = [name for name in below if (Path(folder) / name).is_symlink()]
        found |= {(Path(folder) / name).relative_to(packages).as_posix() for name in (*names, *links)}
    return found


def _fail(why: str) -> NoReturn:
    line = " ".join(why.split())
    sys.stderr.write(f"runbook: {line}\n")
    if _PROLOG in sys.argv or os.environ.get("SLURM_SCRIPT_CONTEXT") in _DRAINING:
        sys.exit(0)
    if "nagios" in sys.argv or "--format=nagios" in sys.argv:
        sys.stdout.write(f"RUNBOOK UNKNOWN - {line.replace('|', '/')}\n")
    sys.exit(_CANNOT)
