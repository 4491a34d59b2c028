"""The commits that records name: whether they belong to the repository, and the code at each commit.

A record is judged by the entry and the probes at its commit, whatever changed since.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from runner.base.errors import RunbookFaultsError, StoreError
from runner.entry.digest import digest_before_schema_4, step_digest
from runner.entry.model import Runbook, Step
from runner.entry.parse import parse
from runner.record.source import (
    ENTRIES,
    PACKAGE,
    CommitDigests,
    commit_files,
    digests_of,
    git,
)
from runner.vocabulary.versions import declared_versions

# Where probes are declared: today, and in commits in which one catalogue held all declarations.
_DECLARING = (
    f"{PACKAGE}/probes/",
    f"{PACKAGE}/record/tools/",
    f"{PACKAGE}/catalogue/",
    f"{PACKAGE}/catalogue.py",
)


@dataclass(frozen=True)
class Commit:
    """One commit of this project, with the data that its records are checked against.

    Attributes:
        made: when.
        digests: of its code.
        methods: method versions by probe, from their declarations; empty if that cannot be read.
        texts: of its entries, by id.
        step_digests: by entry and step, filled on demand.
    """

    made: datetime
    digests: CommitDigests
    methods: Mapping[str, int]
    texts: Mapping[str, bytes]
    step_digests: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict, compare=False)

    def entry(self, runbook_id: str) -> Runbook | None:
        """The entry at this commit; None if there was none, or if the current format cannot parse it."""
        text = self.texts.get(runbook_id)
        return None if text is None else _entry(text, runbook_id)

    def digests_of(self, runbook: Runbook, step: Step) -> tuple[str, str]:
        """The digest of a step of this entry at this commit: its current form, and that of schemas 1 to 3."""
        key = (runbook.id, step.id)
        if key not in self.step_digests:
            self.step_digests[key] = (
                step_digest(runbook, step, self.methods),
                digest_before_schema_4(runbook, step, self.methods),
            )
        return self.step_digests[key]


class History:
    """The commits of one repository, each read once, on first use."""

    def __init__(self, folder: Path | None) -> None:
        """Find the repository of a folder.

        Args:
            folder: a folder in it, which need not exist; None for no repository.
        """
        self._folder = None if folder is None else _existing(folder)
        self._commits: dict[str, Commit | None] = {}
        self.unchecked: set[str] = set()
        """Requested commits that this clone does not contain because it is shallow."""

    def commit(self, name: str) -> Commit | None:
        """The content of this commit; None if the repository lacks a part of it, or there is no repository."""
        if name not in self._commits:
            self._commits[name] = self._read(name)
        return self._commits[name]

    def lacks(self, name: str) -> bool:
        """Whether this is a whole repository of this project, and the commit is not in its history."""
        if name in self._made:
            return False
        if self._made and self._shallow:
            self.unchecked.add(name)
        return bool(self._made) and not self._shallow

    @functools.cached_property
    def _made(self) -> Mapping[str, datetime]:
        """The time of each commit of the history; empty if there is no repository of this project."""
        if self._folder is None:
            return {}
        self._demand_answer(self._folder)
        top = (git(self._folder, "ls-tree", "--full-tree", "-d", "--name-only", "HEAD") or b"").split()
        if PACKAGE.encode() not in top:
            return {}
        rows = (git(self._folder, "rev-list", "--timestamp", "HEAD") or b"").decode().splitlines()
        return {
            name: datetime.fromtimestamp(int(at), UTC) for at, _, name in (row.partition(" ") for row in rows)
        }

    @staticmethod
    def _demand_answer(folder: Path) -> None:
        """Raise if git refuses the repository, for example because another user owns it: nothing could be checked.

        Raises:
            StoreError: there is a repository, and git does not answer.
        """
        marks = (one / ".git" for one in (folder, *folder.parents))
        mark = next((one for one in marks if os.path.lexists(one)), None)
        if mark is not None and git(folder, "rev-parse", "--git-dir") is None:
            raise StoreError(
                f"git cannot read {mark.parent}, so the commits of its records cannot be checked; "
                f"run `git -C {mark.parent} log` to see why"
            )

    @functools.cached_property
    def _shallow(self) -> bool:
        folder = self._folder or Path()
        return (git(folder, "rev-parse", "--is-shallow-repository") or b"").strip() != b"false"

    def _read(self, name: str) -> Commit | None:
        made = self._made.get(name)
        files = None if made is None or self._folder is None else commit_files(self._folder, name)
        if made is None or files is None:
            return None
        plain = {file.name.decode(errors="replace"): file.content for file in files if file.kind == b"file"}
        return Commit(
            made,
            digests_of(files),
            _methods(plain),
            {Path(path).stem: text for path, text in plain.items() if _is_entry(path)},
        )


NO_HISTORY = History(None)
"""For records that are judged without a repository."""


def _existing(folder: Path) -> Path | None:
    return next((one for one in (folder.resolve(), *folder.resolve().parents) if one.is_dir()), None)


def _is_entry(path: str) -> bool:
    return path.startswith(f"{ENTRIES}/") and path.count("/") == 1 and path.endswith(".md")


@functools.lru_cache(maxsize=256)
def _entry(text: bytes, runbook_id: str) -> Runbook | None:
    try:
        return parse(text.decode("utf-8-sig"), Path(f"{runbook_id}.md"), references=False)
    except (UnicodeDecodeError, RunbookFaultsError):
        return None


def _methods(plain: Mapping[str, bytes]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, text in plain.items():
        if path.startswith(_DECLARING):
            found |= declared_versions(text)
    return found
