"""Where this program reads entries, keeps records and runs steps: in a checkout, or as an installed package.

A checkout uses its own `runbooks/` and `site_data/`. An installed package brings its entries along, in a folder beside
`runner`, and keeps what it writes in the user's data folder (XDG_DATA_HOME, else ~/.local/share).
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

import runner
from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed

PROJECT = "llm-runbooks"
# What a wheel puts beside the package (hatch_build.py): `runbooks/`, `kb/` and a file `commit`.
SHIPPED = "llm_runbooks_data"
_LARGEST_PYPROJECT = 1 << 20
# The home folder that Debian gives to accounts without one: it does not exist and cannot be created.
_NO_HOME = Path("/nonexistent")
# The owner that a user namespace (a rootless container) shows for root's folders outside of it.
_OVERFLOW_ID = 65534
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Places:
    """The folders of one command.

    Attributes:
        entries: folders of entries; an entry of a later folder replaces the one with its id in an earlier folder.
        own: the folder among them that `runbook new` writes to; None where all of them are built in.
        data: the data folder, which need not exist yet.
        checkout: the folder in which steps run where there is a checkout; None for an installed package.
        work: the folder in which steps run where there is none.
        docs: the folder of the site's hand-written pages.
    """

    entries: tuple[Path, ...]
    own: Path | None
    data: Path
    checkout: Path | None
    work: Path
    docs: Path

    def root(self) -> Path:
        """The folder in which steps run; for an installed package it is made, for this user alone.

        Raises:
            InputError: the folder cannot be made.
        """
        if self.checkout is not None:
            return self.checkout
        if self.data.is_relative_to(_NO_HOME):
            # Root could make it.
            raise InputError("this user has no home folder; name a folder for records with --data DIR")
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.work.lstat()
        except OSError as error:
            raise InputError(
                f"cannot make {error.filename}: {error.strerror}; name a folder for records with --data DIR"
            ) from error
        # `python -m` imports from the folder that it runs in before any other.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
            raise InputError(
                f"{self.work} is not a folder that only this user can write to; remove it, or name another folder for "
                "records with --data DIR"
            )
        return self.work


def running_package() -> Path:
    """The folder of the `runner` package that this process imported."""
    return Path(str(runner.__file__)).resolve().parent


def find_places(
    runbooks: Path | None = None,
    data: Path | None = None,
    *,
    package: Path | None = None,
    cwd: Path | None = None,
) -> Places:
    """The folders that a command uses; nothing is made.

    Args:
        runbooks: `--runbooks`: added to the built-in entries of an installed package; in a checkout, used instead of
            its `runbooks/`.
        data: `--data`.
        package: the folder of the `runner` package; the running one when left out.
        cwd: the working directory; this process's when left out.
    """
    package = package or running_package()
    shipped = package.parent / SHIPPED
    checkout = _checkout(package.parent, shipped, cwd)
    if checkout is None and runbooks is not None and not shipped.is_dir():
        # A package alone, on PYTHONPATH say: the entries' own checkout is the only one there is.
        checkout = runbooks.resolve().parent
    if checkout is not None:
        own = runbooks or checkout / "runbooks"
        data = data or checkout / "site_data"
        return Places((own,), own, data, own.resolve().parent, checkout, checkout / "kb")
    built_in = (shipped / "runbooks",) if shipped.is_dir() else ()
    added = () if runbooks is None else (runbooks,)
    home = user_data()
    work = home / "work" if data is None else data / ".work"
    return Places((*built_in, *added), runbooks, data or home / "records", None, work, shipped / "kb")


def user_data() -> Path:
    """The folder for what this program keeps for this user: below XDG_DATA_HOME or the home folder.

    Root's is below root's home folder also where HOME is another user's.

    A folder that cannot exist where the user has no home; writing to it fails, reading from it finds nothing.
    """
    # Imported late: a checkout, and a campaign's copy of the code on a node, do without it.
    from platformdirs import user_data_path  # noqa: PLC0415

    given = os.environ.get("XDG_DATA_HOME", "").strip()
    home = os.environ.get("HOME", "unset")
    if not given and os.geteuid() == 0 and _is_of_another_user(Path(home)):
        return Path(pwd.getpwuid(0).pw_dir) / ".local" / "share" / PROJECT
    try:
        folder = Path(user_data_path(PROJECT, appauthor=False))
    except RuntimeError:
        # A user id without an account, as containers have it, and no HOME.
        return _NO_HOME / PROJECT
    # An empty HOME would lead to the root of the file system.
    return folder if (given or home) and folder.is_absolute() else _NO_HOME / PROJECT


def _is_of_another_user(home: Path) -> bool:
    """Whether root has somebody's home folder, as under `sudo -E`: that user could replace what root runs there."""
    try:
        return home.is_absolute() and home.stat().st_uid not in {0, _OVERFLOW_ID}
    except OSError:
        return False


def shipped_docs() -> Path:
    """The folder of guides that an installed package brings along; it does not exist in a checkout."""
    return running_package().parent / SHIPPED / "kb"


def shipped_commit() -> str | None:
    """The commit that an installed package was built from; None where that is unknown."""
    try:
        path = running_package().parent / SHIPPED / "commit"
        return read_placed(path, _LARGEST_PYPROJECT).decode("ascii", "replace").strip() or None
    except PlacedFileError:
        return None


def _checkout(beside: Path, shipped: Path, cwd: Path | None) -> Path | None:
    """The checkout that the package runs from, else the working directory where that is one."""
    if not shipped.is_dir() and (beside / "runbooks").is_dir():
        return beside
    here = cwd or _working_directory()
    return here if here is not None and _is_checkout(here) else None


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _is_checkout(folder: Path) -> bool:
    """Whether this is a checkout of this project that other users cannot have put here.

    A folder that happens to be named `runbooks`, or another user's, must not decide what `runbook diagnose` runs.
    """
    try:
        found = folder.stat()
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
            return False
        if not (folder / "runbooks").is_dir():
            return False
        text = read_placed(folder / "pyproject.toml", _LARGEST_PYPROJECT).decode()
        # Imported late: most commands run in a checkout that needs no proof, or beside the entries of a wheel.
        import tomllib  # noqa: PLC0415

        project = tomllib.loads(text).get("project")
    except (OSError, PlacedFileError, ValueError):
        return False
    return isinstance(project, dict) and project.get("name") == PROJECT
