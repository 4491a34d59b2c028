"""Captures the environment at the end of a block, from which the next block of its phase starts."""

import functools
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
# What bash exports, as text. A variable that bash cannot name is not in it, nor can a block change it.
_EXPORTS = "{ builtin export -p && builtin export -fp; }"
# The file `environment` is this one byte if the block exports what it was given.
_SAME = b"="


def script(command: str, after: Path) -> str:
    """The block with a trap before it, on the first line, so that bash reports the block's own line numbers.

    The trap keeps the exit status and writes the environment only after success. A block that sets its own EXIT trap
    replaces this one, so the environment is also written after the block. If it cannot be written completely (too
    large for a process, no space left), the file is empty.

    Most blocks export nothing. Bash compares its exports at both ends of the block itself, and starts `env` only if
    they differ: starting a program takes longer than the rest of a short block. `env` is always started if a file in
    BASH_ENV may change the environment at each start, in POSIX mode, which prints no bodies of functions, and with
    `set -x`, which would print the whole environment.
    """
    place, first, last = (shlex.quote(f"{after}{suffix}") for suffix in ("", ".first", ".last"))
    note = f"[[ -o posix || ${{BASH_ENV-}} ]] || {_EXPORTS} 2>/dev/null >| {first} || :"
    # The block's own EXIT trap comes later, and an error here may end the shell. So this changes no option and no trap,
    # and uses no `read`, which needs an assignment to IFS; that may be readonly. `set -a` does not export arrays.
    same = (
        f"[[ ! -o posix && ! -o xtrace ]] && {_EXPORTS} >| {last} && "
        f"builtin mapfile runbook_first < {first} && builtin mapfile runbook_last < {last} && "
        'builtin [ "${runbook_first[*]-1}" = "${runbook_last[*]-2}" ] && '
        f"builtin printf = >| {place} && [[ -s {place} ]]"
    )
    # A DEBUG trap of the block prints a line for each of these commands.
    write = (
        f"{{ {{ {same}; }} >/dev/null || {shlex.quote(_env())} -0 >| {place}; }} 2>/dev/null "
        f"|| : >| {place} || :"
    )
    trap = f"{{ if [ $? -eq 0 ] && [ ! -s {place} ]; then {write}; fi; }} 2>/dev/null || :"
    # A last line that ends with a backslash goes on in the next one.
    end = "\n\n" if command.endswith("\\") else "\n"
    return f"trap {shlex.quote(trap)} EXIT; {note}; {command}{end}{write}\n"


@functools.cache
def _env() -> str:
    return shutil.which("env") or "/usr/bin/env"


def read_environment(path: Path, before: Mapping[str, str]) -> dict[str, str] | None:
    """The environment after a block; None if its shell was replaced (`exec`), empty if it was lost.

    Args:
        path: the file that the block's script wrote.
        before: the environment that the block was given.
    """
    try:
        data = read_placed(path, _MOST_BYTES)
    except PlacedFileError:
        return None
    if not data:
        return {}
    kept = {name: before[name] for name in _OF_BASH if name in before and name != TOKEN}
    if data == _SAME:
        return {name: value for name, value in before.items() if name != TOKEN}
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    return {name: value for name, equals, value in pairs if equals and name not in _OF_BASH} | kept
