"""What a program of this project ends with where nothing else could catch an error: never with 1.

Python ends with 1 after an error that nobody caught, and here 1 means that the issue is on this machine. Needs nothing
but `sys` and `os`: it must work where nothing else can be imported.
"""

import os
import sys
from types import TracebackType

_CANNOT_SAY = 3
_DRAINING = ("prolog_slurmd", "epilog_slurmd")


def is_program(words: "list[str]") -> bool:
    """Whether this process is one of our programs, by its `sys.argv`, and not one that imports us.

    While `python -m runner.…` imports our packages, the first word is `-m`.
    """
    return bool(words) and (words[0] == "-m" or words[0].rpartition("/")[2] == "runbook")


def end_with_what_is_true(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """As `sys.excepthook`: say what happened, and end with the exit status that it has for its reader."""
    words = sys.argv[1:]
    try:
        from runner.failure import failed  # noqa: PLC0415 - it may be what cannot be imported

        status = failed(error, words, os.environ)
    except BaseException:  # noqa: BLE001 - a broken installation, or no memory
        status = _said_alone(kind, error, trace, words)
    sys.exit(status)


def _said_alone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, words: "list[str]"
) -> int:
    draining = "--prolog" in words or os.environ.get("SLURM_SCRIPT_CONTEXT") in _DRAINING
    try:
        sys.__excepthook__(kind, error, trace)
        sys.stderr.write("runbook: could not start; the traceback is above\n")
    except BaseException:  # noqa: BLE001, S110 - the exit status is what is left to say
        pass
    return 0 if draining else _CANNOT_SAY
