"""Identifies the code and the node of a run: state of the package, alias of the node, id of the run."""

import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from importlib.machinery import all_suffixes
from pathlib import Path

from runner.base.errors import InputError
from runner.record.model import Code
from runner.record.source import PACKAGE, commit_digests, compiled_as_written, folder_digest, git

_MACHINE_ID = Path("/etc/machine-id")
# Fixed, so that a node keeps its alias; the hash hides the machine id, which must not be published.
_ALIAS_KEY = b"llm-runbooks node alias 1"


def code_state(package: Path, *entries: Path, root: Path | None = None) -> Code:
    """The running code: digests of the package and of the entries, and whether both equal their commit.

    Args:
        package: the folder of the `runner` package that was imported.
        entries: the folders that entries were read from; a file of a later one replaces that of an earlier one.
        root: the folder in which steps run; the one that holds the last folder of entries when left out.

    Returns:
        Commit and `dirty` are None if the package is not at the top of a git checkout, or git does not answer.
        Entries from another folder are clean if they equal those of the package's commit.

    Raises:
        InputError: another `runner` package is in the folder in which steps run, and they would import that one.
    """
    package, entries = package.resolve(), tuple(folder.resolve() for folder in entries)
    found = Code(commit=None, dirty=None, package=folder_digest(package), entries=folder_digest(*entries))
    _refuse_another((root or entries[-1].parent) / PACKAGE, package, found)
    checkout = package.parent
    # Without this, an installed copy inside any other repository would report that repository's commit.
    if package.name != PACKAGE or not (checkout / ".git").exists():
        return found
    commit = (
        git(checkout, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or b""
    ).decode().strip() or None
    held = None if commit is None else commit_digests(checkout, commit)
    if held is None:
        return found.model_copy(update={"commit": commit})
    clean = (found.package, found.entries) == (held.package, held.entries) and compiled_as_written(package)
    return found.model_copy(update={"commit": commit, "dirty": not clean})


def _refuse_another(beside: Path, package: Path, found: Code) -> None:
    # `python -m` searches first in the folder in which steps run.
    other = next(filter(Path.is_file, (beside.with_suffix(suffix) for suffix in all_suffixes())), None)
    if beside.is_dir() and not beside.samefile(package):
        same = folder_digest(beside) == found.package and compiled_as_written(beside)
        other = other if same else beside
    if other is not None:
        raise InputError(
            f"steps would run {other}, which is not the package that records them ({package}); "
            "use the `runbook` of that checkout"
        )


def code_at_the_end(began: Code, package: Path, entries: Sequence[Path]) -> Code:
    """The code of a finished run: `dirty` if the package or the entries changed while it ran."""
    now = folder_digest(package.resolve()), folder_digest(*(folder.resolve() for folder in entries))
    if now == (began.package, began.entries):
        return began
    return began.model_copy(update={"dirty": True})


@functools.cache
def node_alias(machine_id: Path = _MACHINE_ID, cache: Path | None = None) -> str:
    """A stable alias of this node that does not reveal its name: `node-` and six hexadecimal digits.

    It is a keyed hash of the machine id. Without one (in a bare container), a random id stored under `cache` (default:
    the user's cache folder) is used; if that cannot be written, the alias is valid for this process only.
    """
    identity = _read(machine_id)
    # On first boot the file contains "uninitialized" until the id is set.
    if identity in {"", "uninitialized"}:
        identity = _kept_identity(cache or user_cache())
    return f"node-{hmac.new(_ALIAS_KEY, identity.encode(), hashlib.sha256).hexdigest()[:6]}"


def new_run_id() -> str:
    """A new run id: twelve hexadecimal digits, valid in a file name."""
    return secrets.token_hex(6)


def user_cache() -> Path:
    """The folder for this user's keys and ids."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given or os.path.expanduser("~/.cache")) / "llm-runbooks"  # noqa: PTH111 - Path.home() raises for a user without a home


def _kept_identity(cache: Path) -> str:
    kept = cache / "node-id"
    identity = _read(kept)
    if identity:
        return identity
    identity = secrets.token_hex(16)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Exclusive: of two concurrent first runs, one writes and the other reads the same id.
        with kept.open("x", encoding="ascii") as file:
            file.write(identity)
    except FileExistsError:
        return _read(kept) or identity
    except OSError:
        return identity
    return identity


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
