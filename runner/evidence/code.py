"""Where a number was taken and by which code: the checkout's state, the node's alias, the run's id."""

import functools
import hashlib
import hmac
import os
import secrets
import subprocess
from pathlib import Path

from runner.evidence.record import Code

CODE_FOLDERS = ("runner", "runbooks")
_MACHINE_ID = Path("/etc/machine-id")
# Fixed, so that a node keeps its alias; it keeps the machine id, which must not be shown, out of the alias.
_ALIAS_KEY = b"llm-runbooks node alias 1"
_GIT_DEADLINE_S = 10.0


def code_state(root: Path) -> Code:
    """The code under `root`: its commit, a digest of `runner/` and `runbooks/`, and whether those two differ from it.

    Commit and `dirty` are None where `root` is not the top of a git checkout, or git cannot say.
    """
    commit, dirty = _git_state(root)
    return Code(commit=commit, digest=code_digest(root), dirty=dirty)


def code_digest(root: Path) -> str:
    """Digest of the paths and contents of all files of `runner/` and `runbooks/`, 16 hexadecimal digits.

    Compiled files do not count, so running the code does not change it.
    """
    digest = hashlib.sha256()
    for folder in CODE_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if "__pycache__" in path.parts or path.suffix == ".pyc" or not path.is_file():
                continue
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    # Without this an installed copy would take on the commit of whatever repository it happens to lie in.
    if not (root / ".git").exists():
        return None, None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--", *CODE_FOLDERS],
            cwd=root,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_DEADLINE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    commit, dirty = None, False
    for line in result.stdout.splitlines():
        if line.startswith("# branch.oid "):
            oid = line.removeprefix("# branch.oid ")
            commit = None if oid.startswith("(") else oid
        elif not line.startswith("#"):
            dirty = True
    return commit, dirty


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
