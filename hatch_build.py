"""Puts the entries, the site's sources and the commit into the wheel; the checkout's folders stay their only source."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# As `runner.base.places` looks for it.
SHIPPED = "llm_runbooks_data"
_FOLDERS = ("runner", "runbooks", "kb")


class ShippedData(BuildHookInterface[Any]):
    """Of the wheel alone: an editable installation uses the checkout's own folders."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files to the wheel."""
        if version != "standard":
            return
        root = Path(self.root)
        include = build_data["force_include"]
        include[str(root / "runbooks")] = f"{SHIPPED}/runbooks"
        include[str(root / "kb")] = f"{SHIPPED}/kb"
        commit = _commit(root)
        if commit:
            self._commit_file = tempfile.NamedTemporaryFile("w", encoding="ascii")  # noqa: SIM115 - until the end of the build
            self._commit_file.write(f"{commit}\n")
            self._commit_file.flush()
            include[self._commit_file.name] = f"{SHIPPED}/commit"


def _commit(root: Path) -> str:
    """The commit that is built, and whether it was changed since; empty where this is not a checkout."""
    if not (root / ".git").exists():
        return ""
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_FOLDERS)
    return commit + (" with changes" if commit and changes else "")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
