"""The message and exit status of a failed command. Standard library only, so that it works when imports fail.

Some callers give exit statuses their own meaning. Slurm drains a node and requeues the job in a held state if a Prolog
returns anything but 0 (slurm.conf(5), Prolog). Nagios reads 2 as CRITICAL and expects 3, UNKNOWN, with a line on
standard output (its plugin guidelines).
"""

import hashlib
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.base.errors import RunbookError

UNKNOWN, INTERRUPTED, READER_LEFT = 3, 130, 141
_NAGIOS_UNKNOWN = 3
# Scripts that Slurm runs on a node; if one fails, Slurm drains the node.
_DRAINING = ("prolog_slurmd", "epilog_slurmd")
_LONGEST, _MOST = 300, 64 * 1024


def failed(error: BaseException, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print one line on standard error that says why a command ended early; return its exit status.

    Args:
        error: the exception that ended it.
        words: the command-line arguments, possibly invalid.
        environment: of this process.
    """
    if isinstance(error, RunbookError):
        status, said = error.exit_status, str(error)
    elif isinstance(error, KeyboardInterrupt):
        status, said = INTERRUPTED, "interrupted"
    else:
        status, said = UNKNOWN, _bug(error)
    tell(said)
    return status_for(status, said, words, environment)


def output_lost(lost: OSError, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status if a valid result could not be written in full; reported unless the reader closed the pipe."""
    said = f"could not write all output to standard output: {lost.strerror}"
    if isinstance(lost, BrokenPipeError):
        return status_for(READER_LEFT, said, words, environment)
    tell(said)
    return status_for(UNKNOWN, said, words, environment)


def status_for(status: int, said: str, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of a failure for its caller: 0 in a Slurm Prolog, UNKNOWN and its line for Nagios."""
    if "--prolog" in words or environment.get("SLURM_SCRIPT_CONTEXT") in _DRAINING:
        tell("the checks could not run; exit status 0, so that Slurm does not drain the node")
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
    """One line for an unexpected error. Its traceback is saved to a file, or else printed before the line."""
    if isinstance(error, MemoryError):
        return "out of memory; free some memory, or run this on another machine"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "cannot start another thread; raise `ulimit -u`, or the pids limit of the container"
    text = _clean("".join(traceback.format_exception(error)))
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = _clean(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")[:_LONGEST]
    try:
        kept = f"the traceback is in {_kept(text)}"
    except Exception:  # noqa: BLE001 - whatever failed here, the traceback must not be lost
        print(text, end="", file=sys.stderr)
        kept = "the traceback is above"
    return f"a bug in this program: {said}{where}; {kept}, please report it"


def _clean(text: str) -> str:
    """The text without secrets and names: others may read the terminal, and the text goes into bug reports."""
    # Imported here for the same reason as below; only the end of a long text is used.
    try:
        redact = importlib.import_module("runner.record.redaction.redact")
        return str(redact.redact_text(text[-_MOST:], redact.host_secrets()))
    except Exception:  # noqa: BLE001 - redaction fails only if the installation is broken
        return text


def _kept(text: str) -> Path:
    """Save a traceback in the user's cache and return its path; the same traceback always gets the same file."""
    # Imported here: a broken installation is one of the errors handled here.
    cache: Path = importlib.import_module("runner.record.code").user_cache()
    place = cache / "tracebacks" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(f".{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(place)
    return place
