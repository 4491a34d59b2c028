"""Every error a caller may see. A message is one line: what is wrong, where, and what to do next."""

from dataclasses import dataclass
from pathlib import Path

from runner.base.plain import one_line


class RunbookError(Exception):
    """Base of all errors meant for the reader; the command line prints it without a traceback.

    `exit_status` is the exit status of the process: 2 for bad input, 3 if the work could not be finished.
    """

    exit_status = 3


class InputError(RunbookError):
    """The caller's input cannot be used: an argument, a file, a runbook."""

    exit_status = 2


class StoreError(RunbookError):
    """The data folder could not be read or written."""


class RecordError(InputError):
    """A record file is not a record of this project, is truncated, or is of a newer schema."""


class DocumentError(RunbookError):
    """The result that a step wrote is not a valid document."""


class BusyError(RunbookError):
    """Another run holds this node."""


class RankError(RunbookError):
    """A rank of a multi-process measurement died, hung or never joined; the message names it."""


class LateRankError(RankError):
    """A rank was still running, or stuck, at its deadline."""


@dataclass(frozen=True, order=True)
class Fault:
    """One fault in a runbook or a guide, with its place in the file (lines count from 1)."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.path}:{self.line}: {self.message}")


class RunbookFaultsError(InputError):
    """A runbook violates the format; `faults` holds every fault found, in file order."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))
