"""Settings of a job that hide its next hang: torch's watchdog and flight recorder, as torch reads them.

Names and defaults are those of torch's sources: `ProcessGroupNCCL.hpp` and `.cpp`, `FlightRecorder.hpp`, `Utils.hpp`.
Of several names of one setting, the first that is set decides.
"""

import argparse
import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.base.environment import environment_of
from runner.base.plain import visible_line
from runner.base.words import and_more
from runner.kit.judged import judged_pid
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.findings import Action

RECORDER = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
_DUMPER = RECORDER[1:]
_DUMP = ("TORCH_NCCL_DUMP_ON_TIMEOUT",)
_WAIT = ("TORCH_NCCL_BLOCKING_WAIT", "NCCL_BLOCKING_WAIT")
_HANDLING = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING")
_FILES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_NEWEST = (99, 0)
_TRUE, _FALSE = {"y", "yes", "1", "t", "true"}, {"n", "no", "0", "f", "false"}
# The newest torch whose recorder, and whose dumps of NCCL's groups, are off where no size is set; the newest that reads
# the older name of the size alone; the newest that writes no dump after a timeout unless it is asked to.
_OFF_BY_DEFAULT, _OLDER_NAME_ALONE, _NO_DUMP_BY_DEFAULT = (2, 10), (2, 7), (2, 6)


@dataclass(frozen=True)
class BlindSpot:
    """A setting that hides a hang: its name, what it hides, and what to set instead."""

    name: str
    hides: str
    instead: str

    @property
    def action(self) -> Action:
        """A job without a watchdog waits for ever once it hangs; the rest is for its next start."""
        return Action.RESTART if self.name in {*_WAIT, *_HANDLING} else Action.KEEP


def blind_spots(
    environment: Mapping[str, str], torch: str | None, is_writable: Callable[[Path], bool] | None
) -> list[BlindSpot]:
    """What hides the next hang of a job with this environment; pure but for `is_writable`.

    Args:
        environment: of the job.
        torch: its torch's version; None if unknown: a setting that is not there then hides nothing.
        is_writable: whether a folder can be written to; None if it is another process's folder.
    """
    found = []

    def add(names: tuple[str, ...], hides: str, instead: str) -> None:
        name = _set(environment, names) or names[0]
        found.append(BlindSpot(name, hides, instead))

    release = _release(torch) if torch is not None else _NEWEST
    sizes = _DUMPER if release <= _OLDER_NAME_ALONE else RECORDER
    size, dumps = _number(environment, sizes), _number(environment, _DUMPER)
    if size is not None and size <= 0:
        add(sizes, "the flight recorder is off", "2000")
    elif size is None and release <= _OFF_BY_DEFAULT:
        add(sizes, f"the flight recorder of torch {torch} is off if this size is not set", "2000")
    elif dumps is not None and dumps <= 0:
        add(_DUMPER, "NCCL's groups write no dump, whatever TORCH_FR_BUFFER_SIZE is", "2000")
    elif dumps is None and release <= _OFF_BY_DEFAULT:
        add(_DUMPER, f"NCCL's groups of torch {torch} write no dump if this size is not set too", "2000")
    dump = _flag(environment, _DUMP)
    if dump is False:
        add(_DUMP, "a timeout writes no dump", "1")
    elif dump is None and release <= _NO_DUMP_BY_DEFAULT:
        add(_DUMP, f"a timeout in torch {torch} writes no dump if this is not set", "1")
    if _flag(environment, _WAIT):
        add(_WAIT, "no watchdog runs, and a timeout writes no dump", "0")
    if _number(environment, _HANDLING) == 0:
        add(_HANDLING, "a timeout does not end the job, which then hangs until somebody looks", "3")
    prefix = environment.get(_set(environment, _FILES) or "", "")
    if prefix and is_writable and not is_writable(Path(prefix).parent):
        add(_FILES, "the folder of the dumps cannot be written to", "a prefix in a folder of each node")
    return found


def _set(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in environment), None)


def _flag(environment: Mapping[str, str], names: tuple[str, ...]) -> bool | None:
    value = environment.get(_set(environment, names) or "", "").lower()
    return True if value in _TRUE else False if value in _FALSE else None


def _number(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    # As `std::stoi`: leading space and a sign, and whatever follows the digits is ignored.
    match = re.match(r"\s*([+-]?[0-9]{1,9})", environment.get(_set(environment, names) or "", ""))
    return int(match[1]) if match else None


def _release(version: str) -> tuple[int, int]:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _describes_a_job(environment: Mapping[str, str]) -> bool:
    ranks = re.fullmatch(r"[0-9]{1,9}", environment.get("WORLD_SIZE", ""))
    return bool(ranks) and int(environment["WORLD_SIZE"]) > 1 and "RANK" in environment


def readiness_findings(arguments: argparse.Namespace) -> Findings:
    """Judge the settings of this environment, or of a running process.

    Raises:
        NotApplicableError: this environment is not that of a rank of several, and no process was named.
        InputError, RunbookError: as of `environment_of`.
    """
    pid = arguments.pid if arguments.pid is not None else judged_pid()
    environment = os.environ if pid is None else environment_of(pid)
    if pid is None and not _describes_a_job(environment):
        raise NotApplicableError("this is not the environment of a job of several ranks; name one with --pid")
    found = blind_spots(
        environment, _torch_here() if pid is None else None, _writable if pid is None else None
    )
    for one in found:
        say(visible_line(f"{one.name}: {one.hides}; set it to {one.instead}"))
    if not found:
        say("nothing in this environment hides the next hang; whether a job hangs now: runbook hang")
    return Findings(
        measurements=[single("hang_blind_spots", len(found))],
        status="symptom" if found else "ok",
        reason=f"{found[0].name}: {found[0].hides}{and_more(len(found))}" if found else None,
        requested={"of": "this environment" if pid is None else "a running process"},
        details={
            "findings": [
                {
                    "name": one.name,
                    "hides": one.hides,
                    "instead": one.instead,
                    "action": one.action.value,
                }
                for one in found
            ],
            # What is not set has the default of the job's torch.
            "not_set": [names[0] for names in (RECORDER, _DUMP, _FILES) if _set(environment, names) is None],
        },
    )


def _torch_here() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)
