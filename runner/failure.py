"""What a command that fails says and ends with. Standard library alone: it must work where everything else does not.

Some readers of an exit status have a table of their own. Slurm drains a node and holds the job where a Prolog ends with
anything but 0 (slurm.conf(5), Prolog); Nagios reads 2 as CRITICAL and wants 3, UNKNOWN, with a line on standard output
(its plugin guidelines).
"""

import hashlib
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import RunbookError

CANNOT_SAY, INTERRUPTED, READER_LEFT = 3, 130, 141
_NAGIOS_UNKNOWN = 3
# What Slurm runs on a node and drains it for where it fails.
_DRAINING = ("prolog_slurmd", "epilog_slurmd")
_LONGEST, _MOST = 300, 64 * 1024


def failed(error: BaseException, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Say in one line on standard error why a command ended early; the exit status for whoever started it.

    Args:
        error: what ended it.
        words: the arguments, which may not have been understood.
        environment: of this process.
    """
    if isinstance(error, RunbookError):
        status, said = error.exit_status, str(error)
    elif isinstance(error, KeyboardInterrupt):
        status, said = INTERRUPTED, "interrupted"
    else:
        status, said = CANNOT_SAY, _bug(error)
    tell(said)
    return status_for(status, said, words, environment)


def output_lost(lost: OSError, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status where a good answer could not be written in full, which is said unless nobody reads it."""
    said = f"could not write everything to standard output: {lost.strerror}"
    if isinstance(lost, BrokenPipeError):
        return status_for(READER_LEFT, said, words, environment)
    tell(said)
    return status_for(CANNOT_SAY, said, words, environment)


def status_for(status: int, said: str, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of a failure for its reader: 0 in a Slurm Prolog, UNKNOWN and its line for Nagios."""
    if "--prolog" in words or environment.get("SLURM_SCRIPT_CONTEXT") in _DRAINING:
        tell("could not look; exit status 0, so that Slurm does not drain the node for it")
        return 0
    if "--format=nagios" in words or ("--format", "nagios") in itertools.pairwise(words):
        line = said.partition("\n")[0].replace("|", "/")
        print(f"RUNBOOK UNKNOWN - {line}", flush=True)
        return _NAGIOS_UNKNOWN
    return status


def tell(message: str) -> None:
    """Print `runbook: message` on standard error."""
    print(f"runbook: {message}", file=sys.stderr, flush=True)


def _bug(error: BaseException) -> str:
    """One line for an error that nobody foresaw. Its traceback is kept in a file, or else printed before the line."""
    if isinstance(error, MemoryError):
        return "out of memory; free some, or run this on another machine"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no more threads can be started here; raise `ulimit -u`, or the pids limit of its container"
    text = _clean("".join(traceback.format_exception(error)))
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = _clean(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")[:_LONGEST]
    try:
        kept = f"the traceback is in {_kept(text)}"
    except Exception:  # noqa: BLE001 - whatever is broken here, the traceback is not lost
        print(text, end="", file=sys.stderr)
        kept = "the traceback is above"
    return f"a bug in this program: {said}{where}; {kept}, please report it"


def _clean(text: str) -> str:
    """The text without secrets and names: it is printed where others may read it, and reported to others."""
    # Imported here as below, and at most as much of a text as an error is worth.
    try:
        redact = importlib.import_module("runner.evidence.redact")
        return str(redact.redact_text(text[-_MOST:], redact.host_secrets()))
    except Exception:  # noqa: BLE001 - an error that cannot be redacted is one of an installation that is broken
        return text


def _kept(text: str) -> Path:
    """Where a traceback is kept: in the user's cache, the same traceback in the same file each time."""
    # Imported here: a broken installation is one of the errors that end up here.
    cache: Path = importlib.import_module("runner.evidence.code").user_cache()
    place = cache / "tracebacks" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(f".{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(place)
    return place
