"""Talks to Slurm through its own commands; what runs them is injected."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Protocol

from runner.errors import InputError, RunbookError
from runner.launch.slurm.text import (
    ClusterNode,
    JobEnd,
    QueuedJob,
    parse_job_end,
    parse_nodes,
    parse_partitions,
    parse_queue,
)
from runner.units import format_bytes

_DEADLINE_S = 120.0
# What Slurm's commands print while the controller is away, restarts, or asks to be asked less often: the messages of
# slurm_errno.c for lost connections, and those of the C library for a socket that was closed.
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
# How srun's lines begin that tell of the controller; others tell of the node.
_NOT_ALLOWED = ("srun: error: Unable to allocate resources: ", "srun: error: Unable to create step for job ")
_UNKNOWN_JOB = "Invalid job id"
# More than ten thousand nodes' lines of `scontrol show node`, or a node's results in base64.
_MOST_BYTES = 96 << 20
_CHUNK_BYTES = 1 << 16


class SlurmError(RunbookError):
    """A command of Slurm failed; the message has its own words, `status` what it ended with where it ran."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class ControllerAwayError(SlurmError):
    """The controller does not answer at present."""


@dataclass(frozen=True)
class Done:
    """What a command ended with and printed."""

    status: int
    out: bytes
    error: str

    @property
    def lines(self) -> list[str]:
        """What it wrote to standard error, without empty lines."""
        return [line.strip() for line in self.error.splitlines() if line.strip()]


class CommandRunner(Protocol):
    """What runs one of Slurm's commands: `run_command`, or a stand-in."""

    def __call__(self, words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        """Run it to its end, or raise SlurmError."""


def run_command(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
    """Run a command in a session of its own, so that a Ctrl-C at the terminal is ours to answer.

    Raises:
        SlurmError: it is not installed, gave no answer in time (seconds), or printed without end.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Times and states as they are documented, whatever the caller's taste.
            env={name: value for name, value in os.environ.items() if name != "SLURM_TIME_FORMAT"},
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"no {words[0]} on this machine's PATH; run this where Slurm's commands are, or without --on slurm"
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
    """What a command prints, up to a little more than the limit; it is ended where it prints more."""
    taken = bytearray()
    while len(taken) <= _MOST_BYTES:
        more = stream.read(_CHUNK_BYTES)
        if not more:
            return bytes(taken)
        taken += more
    _kill(process)
    return bytes(taken)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # With whatever it started, which would keep its output open.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(stream: IO[bytes], data: bytes) -> None:
    # It may end without having read everything.
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(data)


@dataclass(frozen=True)
class Wish:
    """What a job asks of Slurm beside its nodes. `minutes`: its time limit; `gpus`: a node."""

    partition: str | None = None
    account: str | None = None
    gpus: int | None = None
    minutes: int | None = None

    def words(self) -> list[str]:
        """As arguments of sbatch and srun."""
        given: Mapping[str, object | None] = {
            "--partition": self.partition,
            "--account": self.account,
            "--gpus-per-node": self.gpus,
            "--time": self.minutes,
        }
        return [f"{name}={value}" for name, value in given.items() if value is not None]


class Slurm:
    """The cluster's Slurm, as one user sees it."""

    def __init__(self, run: CommandRunner = run_command) -> None:
        self._run = run

    def submit(
        self, script: str, name: str, tag: str, nodes: Sequence[str], wish: Wish, *, whole: bool
    ) -> str:
        """Submit a batch script for exactly these nodes, never to be started twice; the job's id.

        Args:
            script: its text.
            name: the job's.
            tag: its comment, which tells the jobs of one name apart.
            nodes: all of them.
            wish: what else is asked for.
            whole: nobody else shall be on the nodes meanwhile.

        Raises:
            ControllerAwayError: the answer did not arrive; the job may have been accepted all the same.
            SlurmError: Slurm refuses it.
        """
        words = [
            "sbatch", "--parsable", "--no-requeue", f"--job-name={name}", f"--comment={tag}", "--chdir=/",
            *(["--exclusive"] if whole else []),
            f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", "--ntasks-per-node=1",
            "--output=/dev/null", "--error=/dev/null", *wish.words(),
        ]  # fmt: skip
        said = self._ask(words, stdin=script.encode())
        # On a federation it is `id;cluster`.
        return said.strip().splitlines()[-1].partition(";")[0]

    def queue(self, name: str) -> Mapping[str, QueuedJob]:
        """Every job of this name that the controller remembers, the ended ones included."""
        return parse_queue(
            self._ask(["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i|%T|%r|%k"])
        )

    def job_end(self, job_id: str) -> JobEnd | None:
        """How a job ended; None where the controller has forgotten it (MinJobAge)."""
        try:
            return parse_job_end(self._ask(["scontrol", "show", "job", "-o", job_id]))
        except ControllerAwayError:
            raise
        except SlurmError as error:
            if _UNKNOWN_JOB in str(error):
                return None
            raise

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Every node of the cluster, in the order of its configuration."""
        return parse_nodes(self._ask(["scontrol", "show", "node", "-o"]))

    def partition(self, name: str | None) -> tuple[str, ...]:
        """Names of the nodes of a partition; of the default one when left out.

        Raises:
            InputError: there is no such partition.
        """
        partitions, default = parse_partitions(self._ask(["sinfo", "--noheader", "--Node", "--format=%P|%N"]))
        wanted = name or default
        if wanted is None:
            raise InputError(
                f"no partition is the default here; name one with --partition: {_list(partitions)}"
            )
        if wanted not in partitions:
            raise InputError(f"no partition {wanted!r}; there are {_list(partitions)}")
        return partitions[wanted]

    def expand(self, nodelist: str) -> tuple[str, ...]:
        """The names in a node list such as `node[01-16,20]`, in order, each once."""
        return tuple(dict.fromkeys(self._ask(["scontrol", "show", "hostnames", nodelist]).split()))

    def cancel(self, name: str, job_ids: Sequence[str] = ()) -> None:
        """Cancel these jobs, or every job of this name; others' jobs are never touched, nor are those that are over.

        Raises:
            ControllerAwayError: some may not have been cancelled.
        """
        done = self._run(["scancel", "--quiet", f"--name={name}", *job_ids], stdin=b"", timeout=_DEADLINE_S)
        # A request that got lost leaves the exit status at 0; jobs that are over make it 1, without a word.
        if done.lines and (done.status != 0 or _away(done.lines)):
            raise _failed("scancel", done, done.lines)

    def bring(self, node: str, name: str, command: str, wish: Wish, wait_s: float) -> bytes:
        """Run a short command on a node as a job of its own, and return what it prints.

        Raises:
            ControllerAwayError: it was not allowed to begin, for want of a controller.
            SlurmError: it could not run within `wait_s` seconds, or failed.
        """
        words = [
            "srun", f"--nodelist={node}", "--nodes=1", "--ntasks=1", f"--job-name={name}", "--input=none",
            f"--immediate={max(1, int(wait_s))}", "--chdir=/", *wish.words(), "bash", "-c", command,
        ]  # fmt: skip
        try:
            done = self._run(words, stdin=b"", timeout=wait_s + _DEADLINE_S)
        except ControllerAwayError as error:
            # Slurm's messages have time limits of their own, far shorter: what hangs is the command on the node.
            raise SlurmError(str(error)) from error
        if done.status != 0:
            raise _failed("srun", done, [line for line in done.lines if line.startswith(_NOT_ALLOWED)])
        return done.out

    def _ask(self, words: Sequence[str], stdin: bytes = b"") -> str:
        done = self._run(words, stdin=stdin, timeout=_DEADLINE_S)
        if done.status != 0:
            # A site's plugins print their lines before the command's own.
            raise _failed(words[0], done, done.lines[-1:])
        return done.out.decode(errors="replace")


def _failed(program: str, done: Done, own: Sequence[str]) -> SlurmError:
    """The error of a command, by its last line; `own` are the lines that can tell of the controller."""
    message = f"{program} failed: {done.lines[-1] if done.lines else 'said nothing'}"
    return ControllerAwayError(message) if _away(own) else SlurmError(message, done.status)


def _away(lines: Sequence[str]) -> bool:
    return any(sign in line for line in lines for sign in _AWAY)


def _list(partitions: Mapping[str, object]) -> str:
    return ", ".join(sorted(partitions)) or "none"
