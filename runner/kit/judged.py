"""The environment of another process, read as data: no program is started in it.

Many variables make a program load code: HOME for Python, and others for git, bash, perl or NCCL. So
`runbook diagnose --pid` runs its steps in its caller's environment and passes the process id in RUNBOOK_JUDGED_PID.
Probes that check an environment read that process's instead of their own.
"""

import os
import re
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.time_limit import answer_within

VARIABLE = "RUNBOOK_JUDGED_PID"
# The kernel passes at most 6 MiB to a new program; a process may declare more of its memory as its environment.
_MOST_BYTES = 8 << 20
# Its memory may be mapped from a file on a mount that does not answer.
_ANSWER_S = 20.0
_PROC = Path("/proc")


def judged_pid() -> int | None:
    """The process whose environment to check; None for this process.

    Raises:
        InputError: the variable is not a process id.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", given):
        raise InputError(f"{VARIABLE} is not a process id; unset it and use --pid")
    return int(given)


def read_environ(pid: int, proc: Path = _PROC) -> bytes:
    """The initial environment of a process, as given by the kernel: `NAME=value` separated by zero bytes.

    Raises:
        InputError: there is no such process.
        RunbookError: it belongs to another user, or its environment cannot be read.
    """
    try:
        return read_placed(proc / str(pid) / "environ", _MOST_BYTES)
    except PlacedFileError as error:
        if error.kind == "missing":
            raise InputError(f"there is no process {pid}; ps -e lists the running ones") from error
        if isinstance(error.__cause__, PermissionError):
            raise RunbookError(
                f"no permission to read the environment of process {pid}; run this as its user, or as root"
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
