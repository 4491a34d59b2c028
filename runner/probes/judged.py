"""Another process's environment, read as data: no program is ever started in it.

HOME alone makes Python load code of whoever set it, and a hundred other variables do the like for git, bash, perl or
NCCL. So `runbook diagnose --pid` starts its steps in its caller's environment and names the process in
RUNBOOK_JUDGED_PID; the probes that judge an environment read that process's in place of their own.
"""

import os
import re
from pathlib import Path

from runner.errors import InputError, RunbookError
from runner.patience import answer_within
from runner.placed import PlacedFileError, read_placed

VARIABLE = "RUNBOOK_JUDGED_PID"
# The kernel hands a new program 6 MiB at most; a process may claim more of its memory to be its environment.
_MOST_BYTES = 8 << 20
# The memory that it stands in may be mapped from a file that never answers.
_ANSWER_S = 20.0
_PROC = Path("/proc")


def judged_pid() -> int | None:
    """The process that the caller asks to have judged; None for this one's own environment.

    Raises:
        InputError: what the variable holds is no process id.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", given):
        raise InputError(f"{VARIABLE} is no process id; unset it, and name one with --pid")
    return int(given)


def read_environ(pid: int, proc: Path = _PROC) -> bytes:
    """The environment that a process was started with, as the kernel gives it: `NAME=value` between zero bytes.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to somebody else, or what it calls its environment is none.
    """
    try:
        return read_placed(proc / str(pid) / "environ", _MOST_BYTES)
    except PlacedFileError as error:
        if error.kind == "missing":
            raise InputError(f"there is no process {pid}; ps -e lists those that run") from error
        if isinstance(error.__cause__, PermissionError):
            raise RunbookError(
                f"the environment of process {pid} is closed to this user; run this as its user or as root"
            ) from error
        raise RunbookError(f"the environment of process {pid} cannot be read: it {error.why}") from error


def environment_of(pid: int) -> dict[str, str]:
    """The same as names and values.

    Raises:
        InputError, RunbookError: as of `read_environ`.
    """
    try:
        data = answer_within(_ANSWER_S, lambda: read_environ(pid))
    except TimeoutError as error:
        raise RunbookError(f"the environment of process {pid} cannot be read: {error}") from error
    items = (item.decode(errors="replace").partition("=") for item in data.split(b"\0"))
    return {name: value for name, equals, value in items if equals}
