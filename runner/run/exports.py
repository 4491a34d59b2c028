"""Captures the environment at the end of a block, from which the next block of its phase starts."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from runner.base.placed import PlacedFileError, read_placed
from runner.run.watchdog import TOKEN

_MOST_BYTES = 1 << 28
# Variables that bash itself sets or changes; they would be wrong in the next block.
_OF_BASH = ("_", "SHLVL", "PWD", "OLDPWD", TOKEN)


def script(command: str, after: Path) -> str:
    """The block with a trap before it, on the first line, so that bash reports the block's own line numbers.

    The trap keeps the exit status and writes the environment only after success. A block that sets its own EXIT trap
    replaces this one, so the environment is also written after the block. If it cannot be written completely (too
    large for a process, no space left), the file is empty.
    """
    env = shutil.which("env") or "/usr/bin/env"
    place = shlex.quote(str(after))
    write = f"{shlex.quote(env)} -0 2>/dev/null >| {place} || : >| {place} || :"
    trap = f"if [ $? -eq 0 ] && [ ! -s {place} ]; then {write}; fi"
    return f"trap {shlex.quote(trap)} EXIT; {command}\n{write}\n"


def read_environment(path: Path, before: Mapping[str, str]) -> dict[str, str] | None:
    """The environment after a block; None if its shell was replaced (`exec`), empty if it was lost."""
    try:
        data = read_placed(path, _MOST_BYTES)
    except PlacedFileError:
        return None
    if not data:
        return {}
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    found = {name: value for name, equals, value in pairs if equals and name not in _OF_BASH}
    return found | {name: before[name] for name in _OF_BASH if name in before and name != TOKEN}
