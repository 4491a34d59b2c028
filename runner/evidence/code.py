"""Where a number was taken and by which code: the package's state, the node's alias, the run's id."""

import functools
import hashlib
import hmac
import os
import secrets
from importlib.machinery import all_suffixes
from pathlib import Path

import runner
from runner.errors import InputError
from runner.evidence.record import Code
from runner.evidence.source import PACKAGE, commit_digests, compiled_as_written, folder_digest, git

_MACHINE_ID = Path("/etc/machine-id")
# Fixed, so that a node keeps its alias; it keeps the machine id, which must not be shown, out of the alias.
_ALIAS_KEY = b"llm-runbooks node alias 1"


def code_state(package: Path, entries: Path) -> Code:
    """The code that runs: digests of the package and of the entries, and whether both are their commit's.

    Args:
        package: the folder of the `runner` package that was imported.
        entries: the folder that entries were read from.

    Returns:
        Commit and `dirty` are None where the package does not lie at the top of a git checkout, or git cannot say.
        Entries from elsewhere are clean where they are those of the package's own commit.

    Raises:
        InputError: another `runner` lies beside the entries, and steps would import that one.
    """
    package, entries = package.resolve(), entries.resolve()
    found = Code(commit=None, dirty=None, package=folder_digest(package), entries=folder_digest(entries))
    _refuse_another(entries.parent / PACKAGE, package, found)
    root = package.parent
    # Without this an installed copy would take on the commit of whatever repository it happens to lie in.
    if package.name != PACKAGE or not (root / ".git").exists():
        return found
    commit = (git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or b"").decode().strip() or None
    held = None if commit is None else commit_digests(root, commit)
    if held is None:
        return found.model_copy(update={"commit": commit})
    clean = (found.package, found.entries) == (held.package, held.entries) and compiled_as_written(package)
    return found.model_copy(update={"commit": commit, "dirty": not clean})


def _refuse_another(beside: Path, package: Path, found: Code) -> None:
    # Steps run in the folder that holds the entries' folder, and `python -m` looks there first.
    other = next(filter(Path.is_file, (beside.with_suffix(suffix) for suffix in all_suffixes())), None)
    if beside.is_dir() and not beside.samefile(package):
        same = folder_digest(beside) == found.package and compiled_as_written(beside)
        other = other if same else beside
    if other is not None:
        raise InputError(
            f"steps would run {other}, which is not the package that records them ({package}); "
            "use the `runbook` of that checkout"
        )


def code_at_the_end(began: Code, package: Path, entries: Path) -> Code:
    """The code of a run that has ended: `dirty` where the package or the entries changed while it ran."""
    if (folder_digest(package.resolve()), folder_digest(entries.resolve())) == (began.package, began.entries):
        return began
    return began.model_copy(update={"dirty": True})


def running_package() -> Path:
    """The folder of the `runner` package that this process imported."""
    return Path(str(runner.__file__)).resolve().parent


@functools.cache
def node_alias(machine_id: Path = _MACHINE_ID, cache: Path | None = None) -> str:
    """A stable name for this node that does not give it away: `node-` and six hexadecimal digits.

    It is a keyed hash of the machine id. Where there is none (a bare container), a random id kept under `cache`
    (the user's cache folder when left out) stands in; where that cannot be written, the alias lasts this process.
    """
    identity = _read(machine_id)
    # A first boot writes "uninitialized" until the real id is known.
    if identity in {"", "uninitialized"}:
        identity = _kept_identity(cache or user_cache())
    return f"node-{hmac.new(_ALIAS_KEY, identity.encode(), hashlib.sha256).hexdigest()[:6]}"


def new_run_id() -> str:
    """A fresh run id: twelve hexadecimal digits, fit for a file name."""
    return secrets.token_hex(6)


def user_cache() -> Path:
    """The folder in which this user's own small secrets and ids are kept."""
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
        # Exclusive: of two first runs at once, one writes and the other reads what it wrote.
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
