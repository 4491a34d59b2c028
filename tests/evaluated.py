"""A real bash that evaluates text and tells what became of it: the commands it ran, and all that was changed."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What a payload may call; each leaves a mark.
_TRAPS = ("touch", "id", "x", "sh", "rm", "curl")
_SCRIPT = r"""
look() {
  /usr/bin/env -0 > "$2/$1.environment"
  { compgen -v; declare -f; alias; shopt -p; shopt -po; trap -p; umask; pwd; jobs; } > "$2/$1.shell"
}
command_not_found_handle() { printf '%s\0' "$1" >> "$not_found"; }
not_found=$2/not_found
look before "$2"
trap 'printf "%s\0" "$BASH_COMMAND" >> "$not_found.all"' DEBUG
eval -- "$(< "$1")"
trap - DEBUG
look after "$2"
"""


@dataclass(frozen=True)
class Evaluated:
    """What bash did.

    Attributes:
        commands: every simple command that it ran from the text.
        not_found: first words of those that are no program.
        before, after: the exported variables.
        same_shell: variables' names, functions, aliases, options, traps, mask, folder and jobs are what they were,
            apart from the names that are gone from `after`.
        marks: what a payload left behind in the folder.
    """

    commands: list[str]
    not_found: list[str]
    before: Mapping[str, str]
    after: Mapping[str, str]
    same_shell: bool
    marks: list[str]


def evaluate(text: str, environment: Mapping[str, str]) -> Evaluated:
    """Evaluate a text in a bash with these variables, in which no program but the traps can be found."""
    with tempfile.TemporaryDirectory(prefix="evaluated-") as name:
        place = Path(name)
        work, programs, state = (place / part for part in ("work", "programs", "state"))
        for folder in (work, programs, state):
            folder.mkdir()
        for trap in _TRAPS:
            (programs / trap).write_text(f"#!/bin/sh\n: > {work}/ran\n", encoding="utf-8")
            (programs / trap).chmod(0o755)
        code = state / "code"
        code.write_bytes(text.encode("utf-8", "surrogateescape"))
        subprocess.run(
            ["/bin/bash", "--norc", "--noprofile", "-c", _SCRIPT, "bash", str(code), str(state)],
            env={**environment, "PATH": str(programs), "LC_ALL": "C.UTF-8"},
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        before, after = (_variables(state / f"{when}.environment") for when in ("before", "after"))
        gone = before.keys() - after.keys()
        shells = [(state / f"{when}.shell").read_bytes().splitlines() for when in ("before", "after")]
        kept = [line for line in shells[0] if line.decode(errors="surrogateescape") not in gone]
        return Evaluated(
            # The first is `eval` itself, the last takes the trap away.
            (state / "not_found.all").read_bytes().decode(errors="surrogateescape").split("\0")[1:-2],
            _words(state / "not_found"),
            before,
            after,
            kept == shells[1],
            sorted(path.name for path in work.iterdir()),
        )


def _variables(path: Path) -> dict[str, str]:
    entries = path.read_bytes().decode(errors="surrogateescape").split("\0")
    pairs = (entry.partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs if name != "_"}


def _words(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="surrogateescape").split("\0")[:-1] if path.exists() else []
