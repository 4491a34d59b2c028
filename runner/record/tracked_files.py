"""Finds entries of a data folder in git that are not plain files: every checkout would restore them."""

import os
from collections.abc import Iterator
from pathlib import Path

from runner.record.source import git

_PLAIN = frozenset({"100644", "100755"})
_KINDS = {"120000": "a symbolic link", "160000": "a submodule"}
_KEPT = ".gitkeep"


def carried(root: Path) -> Iterator[tuple[Path, str]]:
    """Paths of the data folder that git must not contain, and why; none if the folder is not in a repository.

    A git control file such as `.gitattributes` could make git store other bytes than those that were checked.
    """
    place = root.absolute()
    listed = git(place.parent, "--literal-pathspecs", "ls-files", "--stage", "-z", "--", place.name)
    for row in (listed or b"").split(b"\0"):
        head, _, name = row.partition(b"\t")
        path = place.parent / os.fsdecode(name)
        mode = head.partition(b" ")[0].decode()
        if not row:
            continue
        if mode not in _PLAIN:
            yield (
                path,
                f"is {_KINDS.get(mode, 'not a file')} in git, but records are plain files; remove it with git rm",
            )
        elif path.name.startswith(".") and path.name != _KEPT:
            yield path, "is a hidden file in git, not a record; remove it with git rm"
