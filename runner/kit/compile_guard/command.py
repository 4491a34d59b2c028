"""Any command under the guard: traced, monitored, and killed at a deadline with all its processes."""

import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.base.errors import InputError
from runner.base.programs import kill
from runner.kit.compile_guard import dumps, processes
from runner.kit.compile_guard.stacks import Verdict, innermost_frame
from runner.kit.compile_guard.watch import Sample, TimeFor, Watch, watch_child

OUTPUT = "output.log"
TRACE = "trace"
STACKS = "stacks"


@dataclass(frozen=True)
class Watched:
    """The observations of a command.

    Attributes:
        ended: whether it exited before the deadline.
        status: its exit status, as in `subprocess`; None if it was killed.
        verdict: `slow`, `stuck-busy` or `stuck-idle` if it was killed; None if unknown.
        where: the innermost frame of the compile at the deadline.
        left: its processes that are still alive.
        folder: output.log, stacks/, trace/ and cache/.
    """

    command: tuple[str, ...]
    ended: bool
    status: int | None
    verdict: Verdict | None
    where: str | None
    wall_s: float
    cpu_share: float | None
    samples: tuple[Sample, ...]
    left: int
    folder: Path


def watch_command(
    command: Sequence[str], folder: Path, deadline_s: float, extra: Mapping[str, str] | None = None
) -> Watched:
    """Run a command with torch's trace on, an empty compile cache, and Python processes that dump stacks on SIGUSR1.

    Args:
        command: program and arguments.
        folder: an empty folder for the observations.
        deadline_s: seconds for the whole command, or from the last `compiling` that it appended to events.jsonl.
        extra: additional variables, as in `environment`.

    Raises:
        InputError: the command cannot be started.
    """
    (folder / "cache").mkdir(parents=True)
    (folder / "events.jsonl").write_text('{"event": "compiling", "cpu_s": 0.0}\n')
    token, began = uuid.uuid4().hex, time.monotonic()
    with (folder / OUTPUT).open("wb") as log:
        try:
            child = subprocess.Popen(
                command,
                env=environment(token, folder, extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"cannot start {command[0]}: {error.strerror}") from error
        watch = Watch(folder, psutil.Process(child.pid), began)
        try:
            late = watch_child(watch, child, TimeFor(deadline_s, lambda _: deadline_s))
        finally:
            processes.end(child.pid, token)
            kill(child)
    return Watched(
        command=tuple(command),
        ended=not late,
        status=None if late else child.returncode,
        verdict=watch.verdict if late else None,
        where=innermost_frame(watch.looks[-1].frames) if late and watch.looks else None,
        wall_s=watch.now(),
        cpu_share=watch.cpu_share,
        samples=tuple(watch.samples),
        left=len(processes.living(token)),
        folder=folder,
    )


def environment(token: str, folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process whose compile is monitored.

    Args:
        token: marks it and all its descendants.
        folder: for its trace, cache and stacks.
        extra: additional variables; a PYTHONPATH among them is prepended to the caller's.
    """
    # Inductor puts Triton's cache below its own unless another is set, so one folder holds both.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"}
    asked = dumps.environment(folder / STACKS)
    paths = [asked["PYTHONPATH"], (extra or {}).get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    return {
        processes.RUN_ID: token,
        **inherited,
        **asked,
        **(extra or {}),
        processes.TOKEN: token,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TORCHINDUCTOR_CACHE_DIR": str(folder.resolve() / "cache"),
        "TORCH_TRACE": str(folder.resolve() / TRACE),
        # A timed compile must not wait for a remote cache.
        "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE": "0",
        "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    }
