"""Stacks from files that others have written: one file a rank."""

import re
from pathlib import Path

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import visible_line
from runner.hang.model import RankLook, Unseen
from runner.hang.stacks import stack_in

STACK = "stack"
_MOST_BYTES = 32 << 20
_MOST_FILES = 100_000
_MOST_CHARACTERS = 500
_RANK = re.compile(r"rank[_.-]?(\d{1,9})", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}")


def read_stacks(folder: Path) -> tuple[tuple[RankLook, ...], tuple[Unseen, ...]]:
    """The main thread's stack of each rank, from files of py-spy (text or JSON) or faulthandler.

    The rank is the number after `rank` in a file's name, or else the last number in it: `rank13.txt`, `stack-13.json`.

    Raises:
        InputError: the folder cannot be read, or no file in it can be used.
    """
    shown = visible_line(str(folder))
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}; name a folder of stacks") from error
    if len(paths) > _MOST_FILES:
        raise InputError(f"{shown} holds more than {_MOST_FILES} files; name a folder of stacks alone")
    looks: dict[int, RankLook] = {}
    unseen: list[Unseen] = []
    for path in paths:
        try:
            rank = rank_in_name(path.name)
            stack = stack_in(read_placed(path, _MOST_BYTES).decode(errors="replace"))
        except InputError as error:
            why = error.why if isinstance(error, PlacedFileError) else str(error)
            unseen.append(_unseen(path, why))
            continue
        if rank in looks:
            unseen.append(_unseen(path, f"is a second stack of rank {rank}"))
        else:
            looks[rank] = RankLook(node="", rank=rank, stacks=(stack,))
    if not looks:
        why = f": {unseen[0].reason}" if unseen else ""
        raise InputError(f"no stack in {shown} can be used{why}; write them with `py-spy dump --pid PID`")
    return tuple(looks[rank] for rank in sorted(looks)), tuple(unseen)


def _unseen(path: Path, why: str) -> Unseen:
    return Unseen(source=STACK, reason=f"{visible_line(path.name)} {why}"[:_MOST_CHARACTERS])


def rank_in_name(name: str) -> int:
    """The rank that a file's name tells.

    Raises:
        InputError: there is no number in it.
    """
    named = _RANK.findall(name) or _NUMBER.findall(name)
    if not named:
        raise InputError("has no rank in its name, as in rank13.txt")
    return int(named[-1])
