"""Files of dumps by their names: which rank one is of, and which of them were written together. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.hang.model import MOST_RANKS
from runner.hang.recordings import DumpContent

_ENDINGS = r"(?:\.(?:json|pickle|pkl|pk|pt|bin|dump|dat|trace|gz|zst|xz|bz2|zip))*"
# `rank` and its number, else a number at the end; then the endings that dumps are given.
_NAMED = re.compile(rf"(.*rank[-_]?)(\d+)((?!\d)[^.]*{_ENDINGS})", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(rf"(.*?)(\d+)({_ENDINGS})", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class DumpFile:
    """A file whose name says that it is the dump of a rank. `pattern`: its name with `*` for the number."""

    name: str
    rank: int
    pattern: str


@dataclass(frozen=True)
class DumpSet:
    """Dumps with one pattern of names. `written_ns`: when their files were last changed, in ns since 1970."""

    pattern: str
    contents: dict[DumpFile, DumpContent]
    written_ns: dict[DumpFile, int]

    @property
    def age(self) -> tuple[int, bool, int]:
        """Larger is newer: by the newest call, then pickles before JSON, which has no frames, then by the files."""
        times = [
            content.newest_ns or self.written_ns[file]
            for file, content in self.contents.items()
            if content.recording.calls
        ]
        pickled = not self.pattern.lower().endswith(".json")
        return max(times, default=0), pickled, max(self.written_ns.values())


def dump_files(names: Iterable[str]) -> list[DumpFile]:
    """The files that are named as dumps of ranks, in order of rank and name."""
    found = [file for name in names if (file := _dump_file(name)) is not None]
    return sorted(found, key=lambda file: (file.rank, file.name))


def newest_sets(sets: Sequence[DumpSet]) -> tuple[list[DumpSet], list[DumpSet]]:
    """The sets to use, and those left out because a newer one has a dump of one of their ranks.

    Sets of different ranks belong together: each node may have its own names.
    """
    used: list[DumpSet] = []
    older: list[DumpSet] = []
    ranks: set[int] = set()
    for one in sorted(sets, key=lambda one: one.age, reverse=True):
        own = {file.rank for file in one.contents}
        (older if own & ranks else used).append(one)
        if not own & ranks:
            ranks |= own
    return used, older


def _dump_file(name: str) -> DumpFile | None:
    found = _NAMED.fullmatch(name) or _NUMBERED.fullmatch(name)
    if found is None or len(found[2]) > len(str(MOST_RANKS)) or int(found[2]) >= MOST_RANKS:
        return None
    return DumpFile(name, int(found[2]), f"{found[1]}*{found[3]}")
