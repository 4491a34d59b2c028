"""What git carries of a data folder that is no plain file: it comes back in every checkout, whatever a disk shows."""

import os
from collections.abc import Iterator
from pathlib import Path

from runner.evidence.source import git

_PLAIN = frozenset({"100644", "100755"})
_KINDS = {"120000": "a symbolic link", "160000": "a submodule"}
_KEPT = ".gitkeep"


def carried(root: Path) -> Iterator[tuple[Path, str]]:
    """Paths that git has of the data folder and may not have, and why; none where it lies in no repository.

    A file of git's own (`.gitattributes`, say) could have git store other bytes than those that were checked.
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
                f"is {_KINDS.get(mode, 'no file')} in git, and records are files; take it out with git rm",
            )
        elif path.name.startswith(".") and path.name != _KEPT:
            yield path, "is a hidden file that git carries, and no record; take it out with git rm"
