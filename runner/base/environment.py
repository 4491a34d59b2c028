"""The environment of another process, read as data: no program is started in it."""

from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.time_limit import answer_within

# The kernel passes at most 6 MiB to a new program; a process may declare more of its memory as its environment.
_MOST_BYTES = 8 << 20
# Its memory may be mapped from a file on a mount that does not answer.
_ANSWER_S = 20.0
_PROC = Path("/proc")


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
    return variables_in(data)


def variables_in(data: bytes) -> dict[str, str]:
    """Names and values of an environment as `read_environ` returns it."""
    items = (item.decode(errors="replace").partition("=") for item in data.split(b"\0"))
    return {name: value for name, equals, value in items if equals}
