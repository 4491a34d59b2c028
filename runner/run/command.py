"""Runs one bash block in its own session, with a deadline and bounded output, and leaves no process behind."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.base.processes import Cleared
from runner.run import lock
from runner.run.block import GRACE_S, BlockEnding, RunningBlock
from runner.run.exports import read_environment, script
from runner.run.interrupts import interrupts_held
from runner.run.leftovers import TOKEN, ProcessTree
from runner.run.output import Captured

__all__ = ["PATIENCE_S", "BlockEnding", "CommandResult", "block_not_started", "run_block"]

# How long killed processes may take to disappear, in seconds: the driver first frees the memory of eight GPUs. A
# process that is still there afterwards is stuck in the kernel.
PATIENCE_S = 30.0
_MOST_NAMED = 5
_OPTIONS = ("SHELLOPTS", "BASHOPTS")
_LOST = "its environment cannot be passed on: too large for a program, or the temporary folder is full"


@dataclass(frozen=True)
class CommandResult:
    """One block that ran.

    Attributes:
        exit_status: of bash; negative for a signal; None if it did not end by itself.
        environment: the complete environment after a block with exit status 0; None otherwise.
        processes_ended: number of processes that outlived the block, or its deadline, and were terminated.
        problem: why the block could not be started or has not ended, or why its exports cannot be passed on.
        stuck: whether some of its processes could not be killed; `problem` names them.
    """

    ending: BlockEnding
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

    At the deadline (seconds), and on Ctrl-C, the block's process group and all its other descendants get SIGTERM, and
    SIGKILL after a short grace. Processes that outlive a block that ended by itself are terminated too. The block
    inherits the node's lock if this process holds it.

    Args:
        command: the block.
        environment: the complete one.
        timeout: its deadline.
        cwd: where it runs.
        still_running: called about once a second with the seconds that the block has run, by the waiting thread.
        stopped: called about once a second; if it returns true, the block is terminated as by Ctrl-C.
        patience: how long a killed process may take to disappear, in seconds; later it is left and named.
    """
    bash = shutil.which("bash", path=environment.get("PATH", os.defpath)) or shutil.which("bash")
    token = uuid.uuid4().hex
    try:
        temporary = tempfile.TemporaryDirectory(prefix="runbook-block-", ignore_cleanup_errors=True)
    except OSError as error:
        return block_not_started(f"cannot create a temporary folder: {error}")
    with temporary as folder, interrupts_held():
        after = Path(folder) / "environment"
        began = time.monotonic()
        tree = ProcessTree(token)
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
            tree.ends()
            return block_not_started(str(error))
        tree.starts(process.pid)
        with RunningBlock(process, tree) as block:
            ending = block.run(began, timeout, still_running, stopped)
            ending, cleared = block.finish(ending, patience)
        duration = time.monotonic() - began
        late = duration - timeout
        problem = _left(cleared)
        if ending is BlockEnding.EXITED and cleared.ended and late > 2 * GRACE_S:
            # Its shell ended in time, but its child processes did not.
            ending, problem = (
                BlockEnding.TIMEOUT,
                problem or f"its child processes were terminated {late:.0f} s after it",
            )
        status = process.returncode if ending is BlockEnding.EXITED else None
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
    """The environment without shell options that bash would import: with `noexec` every block would pass."""
    return {name: value for name, value in environment.items() if name not in _OPTIONS}


def _left(cleared: Cleared) -> str | None:
    """The processes that could not be killed: `could not be killed: process 4711 (state D, `dd`)`."""
    if not cleared.left:
        return None
    named = ", ".join(map(str, cleared.left[:_MOST_NAMED]))
    more = len(cleared.left) - _MOST_NAMED
    return f"could not be killed: {named}" + (f" and {more} more" if more > 0 else "")


def block_not_started(problem: str) -> CommandResult:
    """The result of a block that did not start, with the reason."""
    nothing = Captured("", 0)
    return CommandResult(BlockEnding.NOT_STARTED, None, nothing, nothing, 0.0, None, 0, problem)
