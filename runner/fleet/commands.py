"""Calls Slurm through its commands; the function that runs them is injected."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Protocol

from runner.base.errors import InputError, RunbookError
from runner.base.units import format_bytes
from runner.fleet.text import (
    ClusterNode,
    JobEnd,
    QueuedJob,
    parse_job_end,
    parse_nodes,
    parse_partitions,
    parse_queue,
)

_DEADLINE_S = 120.0
# Messages of Slurm's commands while the controller is down, restarts, or limits the request rate: those of
# slurm_errno.c for lost connections, and those of the C library for a closed socket.
_AWAY = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were",
    "Unexpected missing socket error",
    "Communication connection failure",
    "Communication shutdown failure",
    "Message send failure",
    "Message receive failure",
    "backup controller in standby mode",
    "Rate limit exceeded",
    "Connection refused",
    "Connection reset by peer",
    "Connection timed out",
    "Transport endpoint is not connected",
    "Broken pipe",
    "No route to host",
)
# Prefixes of srun messages about the controller; other messages are about the node.
_NOT_ALLOWED = ("srun: error: Unable to allocate resources: ", "srun: error: Unable to create step for job ")
_UNKNOWN_JOB = "Invalid job id"
# More than `scontrol show node` for ten thousand nodes, or the results of a node in base64.
_MOST_BYTES = 96 << 20
_CHUNK_BYTES = 1 << 16


class SlurmError(RunbookError):
    """A Slurm command failed; the message quotes it, and `status` is its exit status if it ran."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class ControllerAwayError(SlurmError):
    """The controller does not answer at the moment."""


@dataclass(frozen=True)
class Done:
    """The exit status and the output of a command."""

    status: int
    out: bytes
    error: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard error, without empty lines."""
        return [line.strip() for line in self.error.splitlines() if line.strip()]


class CommandRunner(Protocol):
    """Runs a Slurm command: `run_command`, or a replacement in tests."""

    def __call__(self, words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        """Run it to its end, or raise SlurmError."""


def run_command(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
    """Run a command in its own session, so that Ctrl-C at the terminal reaches only this process.

    Raises:
        SlurmError: it is not installed, did not finish in time (seconds), or printed too much.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # The documented formats, regardless of the caller's settings.
            env={name: value for name, value in os.environ.items() if name != "SLURM_TIME_FORMAT"},
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{words[0]} is not on PATH; run this on a host with the Slurm commands, or without --on slurm"
        ) from error
    with process, ThreadPoolExecutor(3) as threads:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        printed = threads.submit(_read, process, process.stdout)
        complained = threads.submit(_read, process, process.stderr)
        threads.submit(_write, process.stdin, stdin)
        try:
            status = process.wait(timeout)
        except BaseException as raised:
            _kill(process)
            if isinstance(raised, subprocess.TimeoutExpired):
                raise ControllerAwayError(f"{words[0]} gave no answer within {timeout:g} s") from raised
            raise
    found, said = printed.result(), complained.result()
    if max(len(found), len(said)) > _MOST_BYTES:
        raise SlurmError(f"{words[0]} printed more than {format_bytes(_MOST_BYTES)}")
    return Done(status, found, said.decode(errors="replace"))


def _read(process: "subprocess.Popen[bytes]", stream: IO[bytes]) -> bytes:
    """The output of a command, up to slightly more than the limit; a command that prints more is killed."""
    taken = bytearray()
    while len(taken) <= _MOST_BYTES:
        more = stream.read(_CHUNK_BYTES)
        if not more:
            return bytes(taken)
        taken += more
    _kill(process)
    return bytes(taken)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # Together with its children, which would keep its output open.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(stream: IO[bytes], data: bytes) -> None:
    # The command may exit without reading everything.
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(data)


@dataclass(frozen=True)
class Wish:
    """The resources that a job requests besides its nodes. `minutes`: time limit; `gpus`: GPUs per node."""

    partition: str | None = None
    account: str | None = None
    gpus: int | None = None
    minutes: int | None = None

    def words(self) -> list[str]:
        """The arguments for sbatch and srun."""
        given: Mapping[str, object | None] = {
            "--partition": self.partition,
            "--account": self.account,
            "--gpus-per-node": self.gpus,
            "--time": self.minutes,
        }
        return [f"{name}={value}" for name, value in given.items() if value is not None]


class Slurm:
    """The Slurm of the cluster, as seen by one user."""

    def __init__(self, run: CommandRunner = run_command) -> None:
        self._run = run

    def submit(
        self, script: str, name: str, tag: str, nodes: Sequence[str], wish: Wish, *, whole: bool
    ) -> str:
        """Submit a batch script for exactly these nodes, without requeue; returns the job id.

        Args:
            script: text of the script.
            name: name of the job.
            tag: comment of the job, which distinguishes jobs of one name.
            nodes: all nodes of the job.
            wish: further requested resources.
            whole: whether the job needs exclusive nodes.

        Raises:
            ControllerAwayError: there was no answer; the job may still have been accepted.
            SlurmError: Slurm refuses it.
        """
        words = [
            "sbatch", "--parsable", "--no-requeue", f"--job-name={name}", f"--comment={tag}", "--chdir=/",
            *(["--exclusive"] if whole else []),
            f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", "--ntasks-per-node=1",
            "--output=/dev/null", "--error=/dev/null", *wish.words(),
        ]  # fmt: skip
        said = self._ask(words, stdin=script.encode())
        # In a federation the output is `id;cluster`.
        return said.strip().splitlines()[-1].partition(";")[0]

    def queue(self, name: str) -> Mapping[str, QueuedJob]:
        """Every job of this name that the controller remembers, including finished ones."""
        return parse_queue(
            self._ask(["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i|%T|%r|%k"])
        )

    def job_end(self, job_id: str) -> JobEnd | None:
        """How a job ended; None if the controller no longer knows it (MinJobAge)."""
        try:
            return parse_job_end(self._ask(["scontrol", "show", "job", "-o", job_id]))
        except ControllerAwayError:
            raise
        except SlurmError as error:
            if _UNKNOWN_JOB in str(error):
                return None
            raise

    def nodes(self) -> Mapping[str, ClusterNode]:
        """Every node of the cluster by name, in the order of its configuration."""
        return {node.name: node for node in parse_nodes(self._ask(["scontrol", "show", "node", "-o"]))}

    def partition(self, name: str | None) -> tuple[str, ...]:
        """Names of the nodes of a partition; default: Slurm's default partition.

        Raises:
            InputError: there is no such partition.
        """
        partitions, default = parse_partitions(self._ask(["sinfo", "--noheader", "--Node", "--format=%P|%N"]))
        wanted = name or default
        if wanted is None:
            raise InputError(f"there is no default partition; name one with --partition: {_list(partitions)}")
        if wanted not in partitions:
            raise InputError(f"no partition {wanted!r}; available: {_list(partitions)}")
        return partitions[wanted]

    def expand(self, nodelist: str) -> tuple[str, ...]:
        """The names in a node list such as `node[01-16,20]`, in order, without duplicates."""
        return tuple(dict.fromkeys(self._ask(["scontrol", "show", "hostnames", nodelist]).split()))

    def cancel(self, name: str, job_ids: Sequence[str] = ()) -> None:
        """Cancel these jobs, or every job of this name; no other jobs, and no finished ones.

        Raises:
            ControllerAwayError: some may not have been cancelled.
        """
        done = self._run(["scancel", "--quiet", f"--name={name}", *job_ids], stdin=b"", timeout=_DEADLINE_S)
        # A lost request leaves the exit status at 0; finished jobs make it 1 without a message.
        if done.lines and (done.status != 0 or _away(done.lines)):
            raise _failed("scancel", done, done.lines)

    def bring(self, node: str, name: str, command: str, wish: Wish, wait_s: float) -> bytes:
        """Run a short command on a node as a separate job, and return its output.

        Raises:
            ControllerAwayError: it could not start because the controller did not answer.
            SlurmError: it did not run within `wait_s` seconds, or failed.
        """
        words = [
            "srun", f"--nodelist={node}", "--nodes=1", "--ntasks=1", f"--job-name={name}", "--input=none",
            f"--immediate={max(1, int(wait_s))}", "--chdir=/", *wish.words(), "bash", "-c", command,
        ]  # fmt: skip
        try:
            done = self._run(words, stdin=b"", timeout=wait_s + _DEADLINE_S)
        except ControllerAwayError as error:
            # Slurm's own timeouts are far shorter, so here the command on the node hangs.
            raise SlurmError(str(error)) from error
        if done.status != 0:
            raise _failed("srun", done, [line for line in done.lines if line.startswith(_NOT_ALLOWED)])
        return done.out

    def _ask(self, words: Sequence[str], stdin: bytes = b"") -> str:
        done = self._run(words, stdin=stdin, timeout=_DEADLINE_S)
        if done.status != 0:
            # Site plugins print their lines before those of the command.
            raise _failed(words[0], done, done.lines[-1:])
        return done.out.decode(errors="replace")


def _failed(program: str, done: Done, own: Sequence[str]) -> SlurmError:
    """The error of a command, from its last line; `own` are the lines that can be about the controller."""
    message = f"{program} failed: {done.lines[-1] if done.lines else 'no output'}"
    return ControllerAwayError(message) if _away(own) else SlurmError(message, done.status)


def _away(lines: Sequence[str]) -> bool:
    return any(sign in line for line in lines for sign in _AWAY)


def _list(partitions: Mapping[str, object]) -> str:
    return ", ".join(sorted(partitions)) or "none"
