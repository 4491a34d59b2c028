"""Any command under the guard's eyes: traced, watched, and ended on a deadline with all that it has started."""

import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.errors import InputError
from runner.probes.compile_guard import dumps, processes
from runner.probes.compile_guard.stacks import Verdict, culprit
from runner.probes.compile_guard.watch import Sample, TimeFor, Watch, watch_child
from runner.programs import kill

OUTPUT = "output.log"
TRACE = "trace"
STACKS = "stacks"


@dataclass(frozen=True)
class Watched:
    """What was seen of a command.

    Attributes:
        ended: whether it ended by itself before the deadline.
        status: its exit status, as `subprocess` has it; None where it was ended.
        verdict: `slow`, `stuck-busy` or `stuck-idle` where it was ended; None where it could not be told.
        where: the innermost frame of the compile at the deadline.
        left: its processes that are alive after it.
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
    """Run a command with torch's trace on, an empty compile cache, and Pythons that tell their stacks when asked.

    Args:
        command: program and arguments.
        folder: an empty folder for what is seen.
        deadline_s: seconds for the whole command, or from the last `compiling` that it appended to events.jsonl.
        extra: variables on top, as of `environment`.

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
        where=culprit(watch.looks[-1].frames) if late and watch.looks else None,
        wall_s=watch.now(),
        cpu_share=watch.cpu_share,
        samples=tuple(watch.samples),
        left=len(processes.living(token)),
        folder=folder,
    )


def environment(token: str, folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process whose compile is watched.

    Args:
        token: marks it and all that it starts.
        folder: where its trace, its cache and its stacks go.
        extra: variables on top; a PYTHONPATH among them comes before the caller's.
    """
    # Inductor puts Triton's cache under its own where nobody has named another; so one folder holds all.
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
        # A compile that is timed must not wait for a cache on another host.
        "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE": "0",
        "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    }
