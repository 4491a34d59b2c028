"""Runs one bash block: its own session, a deadline, bounded output, and nothing left alive afterwards."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.launch import lock
from runner.launch.block import GRACE_S, Block, Ending
from runner.launch.exports import read_environment, script
from runner.launch.interrupts import interrupts_held
from runner.launch.leftovers import TOKEN, Brood, Cleared
from runner.launch.output import Captured

__all__ = ["PATIENCE_S", "CommandResult", "Ending", "not_started", "run_block"]

# How long what was killed may take to be gone, in seconds: a driver frees the memory of eight GPUs first. A process
# that is there after that waits in the kernel for something that does not come.
PATIENCE_S = 30.0
_MOST_NAMED = 5
_OPTIONS = ("SHELLOPTS", "BASHOPTS")
_LOST = (
    "its environment cannot be carried on: too large to hand to a program, or the temporary folder is full"
)


@dataclass(frozen=True)
class CommandResult:
    """One block that ran.

    Attributes:
        exit_status: bash's; negative for a signal; None where it did not end by itself.
        environment: the complete environment after a block that ended with 0; None otherwise.
        processes_ended: processes that outlived the block, or its deadline, and were ended.
        problem: why the block could not be started or has not ended, or why what it exported cannot be carried on.
        stuck: processes of it live on, which nothing ends; `problem` names them.
    """

    ending: Ending
    exit_status: int | None
    stdout: Captured
    stderr: Captured
    duration_s: float
    environment: Mapping[str, str] | None
    processes_ended: int
    problem: str | None = None
    stuck: bool = False


def run_block(
    command: str,
    *,
    environment: Mapping[str, str],
    timeout: float,
    cwd: Path,
    still_running: Callable[[float], None] = lambda _seconds: None,
    stopped: Callable[[], bool] = lambda: False,
    patience: float = PATIENCE_S,
) -> CommandResult:
    """Run a block under `bash -euo pipefail` with no standard input.

    On the deadline (seconds), and on Ctrl-C, the block's group gets SIGTERM, a short grace and SIGKILL, and so does
    every other process that came of it. Processes that outlive a block that ended by itself are ended too. The block
    has the node's lock open where this process holds it.

    Args:
        command: the block.
        environment: the complete one.
        timeout: its deadline.
        cwd: where it runs.
        still_running: told about every second for how many seconds the block has run, by the thread that waits.
        stopped: asked about every second; true ends the block as Ctrl-C does.
        patience: seconds that a killed process may take to be gone. What is there after that is left, and named.
    """
    bash = shutil.which("bash", path=environment.get("PATH", os.defpath)) or shutil.which("bash")
    token = uuid.uuid4().hex
    try:
        temporary = tempfile.TemporaryDirectory(prefix="runbook-block-", ignore_cleanup_errors=True)
    except OSError as error:
        return not_started(f"no temporary folder can be made: {error}")
    with temporary as folder, interrupts_held():
        after = Path(folder) / "environment"
        began = time.monotonic()
        brood = Brood(token)
        try:
            process = subprocess.Popen(
                [bash or "bash", "-euo", "pipefail", "-c", script(command, after).encode()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**_without_options(environment), TOKEN: token},
                cwd=cwd,
                start_new_session=True,
                pass_fds=lock.held(),
            )
        except (OSError, ValueError) as error:
            brood.ends()
            return not_started(str(error))
        brood.starts(process.pid)
        with Block(process, brood) as block:
            ending = block.run(began, timeout, still_running, stopped)
            ending, cleared = block.finish(ending, patience)
        duration = time.monotonic() - began
        late = duration - timeout
        problem = _left(cleared)
        if ending is Ending.EXITED and cleared.ended and late > 2 * GRACE_S:
            # Its shell was in time, what it started was not.
            ending, problem = (
                Ending.TIMEOUT,
                problem or f"what it had started was ended {late:.0f} s after it",
            )
        status = process.returncode if ending is Ending.EXITED else None
        carried = read_environment(after, environment) if status == 0 else None
        if carried is not None and not carried:
            problem = problem or _LOST
    return CommandResult(
        ending,
        status,
        block.stdout.captured(),
        block.stderr.captured(),
        duration,
        carried or None,
        cleared.ended,
        problem,
        stuck=bool(cleared.left),
    )


def _without_options(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without options that bash would take from it: under `noexec` every block would pass."""
    return {name: value for name, value in environment.items() if name not in _OPTIONS}


def _left(cleared: Cleared) -> str | None:
    """What could not be ended: `could not be ended: process 4711 (state D, `dd`)`."""
    if not cleared.left:
        return None
    named = ", ".join(map(str, cleared.left[:_MOST_NAMED]))
    more = len(cleared.left) - _MOST_NAMED
    return f"could not be ended: {named}" + (f" and {more} more" if more > 0 else "")


def not_started(problem: str) -> CommandResult:
    """The result of a block that never ran, and why."""
    nothing = Captured("", 0)
    return CommandResult(Ending.NOT_STARTED, None, nothing, nothing, 0.0, None, 0, problem)
