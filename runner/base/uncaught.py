"""The exit status of a program of this project after an uncaught error: never 1.

Python exits with 1 after an uncaught error, but here 1 means that the issue was found on this machine. Uses only `sys`
and `os`, so that it works when nothing else can be imported.
"""

import os
import sys
from types import TracebackType

_UNKNOWN = 3
_DRAINING = ("prolog_slurmd", "epilog_slurmd")


def is_program(words: "list[str]") -> bool:
    """Whether this process, by its `sys.argv`, is a program of this project and not one that imports it.

    While `python -m runner.…` imports this package, the first word is `-m`.
    """
    return bool(words) and (words[0] == "-m" or words[0].rpartition("/")[2] == "runbook")


def report_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replacement for `sys.excepthook`: report the error and exit with the status that fits the caller."""
    words = sys.argv[1:]
    try:
        from runner.base.failure import failed  # noqa: PLC0415 - this import itself may fail

        status = failed(error, words, os.environ)
    except BaseException:  # noqa: BLE001 - a broken installation, or no memory
        status = _reported_without_package(kind, error, trace, words)
    sys.exit(status)


def _reported_without_package(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, words: "list[str]"
) -> int:
    draining = "--prolog" in words or os.environ.get("SLURM_SCRIPT_CONTEXT") in _DRAINING
    try:
        sys.__excepthook__(kind, error, trace)
        sys.stderr.write("runbook: could not start; the traceback is above\n")
    except BaseException:  # noqa: BLE001, S110 - only the exit status is left to report
        pass
    return 0 if draining else _UNKNOWN
