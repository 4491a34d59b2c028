"""Any command under the guard: traced, monitored, and killed at a deadline with all its processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import InputError
from runner.kit.compile_guard import dumps
from runner.kit.compile_guard.stacks import Verdict
from runner.kit.compile_guard.watch import CACHE, EVENTS, OUTPUT, STACKS, TRACE, Sample, TimeFor, watched
from runner.record.last_words import last_words_in
from runner.record.redaction.redact import host_secrets


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
        extra: additional variables, as in `watched_environment`.

    Raises:
        InputError: the command cannot be started.
    """
    (folder / CACHE).mkdir(parents=True)
    (folder / EVENTS).write_text('{"event": "compiling", "cpu_s": 0.0}\n')
    time_for = TimeFor(deadline_s, lambda _: deadline_s)
    try:
        watch = watched(command, watched_environment(folder, extra), folder, time_for)
    except OSError as error:
        raise InputError(f"cannot start {command[0]}: {error.strerror}") from error
    return Watched(
        command=tuple(command),
        ended=not watch.late,
        status=None if watch.late else watch.status,
        verdict=watch.verdict if watch.late else None,
        where=watch.where if watch.late else None,
        wall_s=watch.now(),
        cpu_share=watch.cpu_share,
        samples=tuple(watch.samples),
        left=len(watch.cleared.left),
        folder=folder,
    )


def watched_environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process whose compile is monitored.

    Args:
        folder: for its trace, cache and stacks.
        extra: additional variables; a PYTHONPATH among them is prepended to the caller's.
    """
    # Inductor puts Triton's cache below its own unless another is set, so one folder holds both.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"}
    asked = dumps.dumping_environment(folder / STACKS)
    paths = [asked["PYTHONPATH"], (extra or {}).get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    return {
        **inherited,
        **asked,
        **(extra or {}),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TORCHINDUCTOR_CACHE_DIR": str(folder.resolve() / CACHE),
        "TORCH_TRACE": str(folder.resolve() / TRACE),
        # A timed compile must not wait for a remote cache.
        "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE": "0",
        "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    }


def last_output(folder: Path) -> str:
    """The last words of a watched program that failed: `last output: …` or `no output`."""
    words = last_words_in(folder / OUTPUT, host_secrets())
    return f"last output: {words}" if words else "no output"
