"""Runs a short script on the nodes of a running job, beside its tasks, by steps of that job.

One step a node: a node that does not answer holds up no other. The job's own steps are not touched.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from runner.base.errors import InputError
from runner.base.units import format_bytes
from runner.fleet.commands import CommandRunner, Slurm, SlurmError, run_command
from runner.fleet.script import MEANINGS

_DEADLINE_S = 20.0
# Time for srun to end its step after an interrupt, in seconds.
_END_S = 5.0
_MOST_BYTES = 64 << 20
# `--overlap` came with Slurm 20.11; before, steps shared the CPUs of a job without it.
_OVERLAP = (20, 11)
# Where Slurm's commands find their cluster; all other variables of a job would change the step.
_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS"})
_RUNNING = "RUNNING"
# Of `timeout` of coreutils.
_TIMED_OUT = 124
# Bash reads a script from a pipe bit by bit, and what it runs would read from it too.
_FROM_INPUT = "bash <(cat) < /dev/null"


@dataclass(frozen=True)
class RunningJob:
    """A job that runs. `id`: without the index of an array, as `--jobid` needs it."""

    id: str
    nodes: tuple[str, ...]


def find_job(job: str, run: CommandRunner = run_command) -> RunningJob:
    """A job by the number that squeue shows.

    Raises:
        InputError: there is no such job, or it does not run.
        SlurmError: Slurm does not answer.
    """
    if not re.fullmatch(r"\d{1,12}(_\d{1,9}|\+\d{1,9})?", job):
        raise InputError(f"{job!r} is not the id of a Slurm job; squeue lists the jobs")
    done = run(["squeue", "--noheader", f"--jobs={job}", "--format=%A|%T|%N"], stdin=b"", timeout=_DEADLINE_S)
    lines = done.out.decode(errors="replace").split()
    if done.status != 0 and not any("Invalid job id" in line for line in done.lines):
        raise SlurmError(f"squeue failed: {done.lines[-1] if done.lines else 'no output'}", done.status)
    if len(lines) != 1:
        many = f"{job} stands for {len(lines)} jobs" if lines else f"Slurm has no job {job} that runs"
        raise InputError(f"{many}; squeue lists the jobs")
    number, state, nodes = (*lines[0].split("|"), "", "")[:3]
    if state != _RUNNING:
        raise InputError(f"job {job} is {state}, not {_RUNNING}; only a running job can be looked at")
    return RunningJob(number, Slurm(run).expand(nodes))


class JobSteps:
    """Steps of one job; a context that leaves none of them behind."""

    def __init__(self, job: RunningJob) -> None:
        self._job = job
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        version = _version()
        overlap = ["--overlap"] if version is None or version >= _OVERLAP else []
        self._words = [
            "srun", f"--jobid={self._job.id}", *overlap, "--nodes=1", "--ntasks=1", "--cpus-per-task=1",
            "--mpi=none", "--chdir=/", "--quiet",
        ]  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            # srun then ends its step on the node.
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        end = time.monotonic() + _END_S
        for process in running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)

    def run(self, node: str, script: str, seconds: float) -> bytes:
        """What the script prints on this node.

        Raises:
            SlurmError: it did not run, failed, or gave no answer in time.
        """
        with self._lock:
            if self._closed:
                raise SlurmError("interrupted")
            process = _started([*self._words, f"--nodelist={node}", "bash", "-c", _FROM_INPUT])
            self._running.add(process)
        try:
            out, said = process.communicate(script.encode(), seconds)
        except subprocess.TimeoutExpired as error:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_END_S)
            _kill(process)
            raise SlurmError(f"no answer within {seconds:.0f} s{_last(error.stderr)}") from error
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise SlurmError(_failure(process.returncode, said), process.returncode)
        if len(out) > _MOST_BYTES:
            raise SlurmError(f"printed more than {format_bytes(_MOST_BYTES)}")
        return out


def _started(words: Sequence[str]) -> "subprocess.Popen[bytes]":
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(("SLURM", "SRUN"))
    }
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise SlurmError("srun is not on PATH; run this on a host with the Slurm commands") from error


def _version() -> tuple[int, int] | None:
    done = run_command(["srun", "--version"], stdin=b"", timeout=_DEADLINE_S)
    found = re.search(rb"(\d+)\.(\d+)", done.out)
    return (int(found[1]), int(found[2])) if found else None


def _failure(status: int, said: bytes) -> str:
    meaning = "no answer in time" if status == _TIMED_OUT else MEANINGS.get(status)
    return f"{meaning or f'exit status {status}'}{_last(said)}"


def _last(said: bytes | None) -> str:
    lines = [line.strip() for line in (said or b"").decode(errors="replace").splitlines() if line.strip()]
    # The command's own error, or Slurm's; srun's summary of exit statuses says less.
    told = [
        line for line in lines if "Exited with exit code" not in line and "Terminating" not in line
    ] or lines
    return f": {told[-1][:300]}" if told else ""


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
