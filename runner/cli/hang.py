"""`runbook hang`: which rank of a job that hangs now holds up the others, and what it does instead."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.base.errors import InputError
from runner.base.plain import json_text
from runner.base.processes import stat_of
from runner.cli.cluster_hang import look_at_job
from runner.cli.hang_text import print_hangs
from runner.hang.dumps import read_dumps
from runner.hang.findings import HangKind, HangVerdict
from runner.hang.model import RankLook, Snapshot
from runner.hang.observe import SECONDS, observe
from runner.hang.process_facts import in_slurm_job
from runner.hang.rank_process import RankProcess
from runner.hang.snapshot_json import as_document, joined_looks
from runner.hang.stack_files import read_stacks
from runner.hang.verdict import judge_hang

FOUND, UNKNOWN, MOVED = 1, 3, 0
_MOST_SECONDS = 600.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Look at the ranks of a job that hangs: the stack of each rank (py-spy), the calls that its flight recorder "
        "holds, its CPU time, its GPU, Xids and NCCL's RAS. Reads only: no rank is ended or gets a signal."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--pid",
        type=_pid,
        nargs="+",
        metavar="PID",
        help="these processes; the pid of torchrun stands for its ranks",
    )
    which.add_argument(
        "--all",
        action="store_true",
        help="every rank of this user on this node, as root of every user (the default)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        metavar="S",
        help=f"how long to look (default {SECONDS:g}); the answer comes up to 5 s later",
    )
    parser.add_argument(
        "--no-dump",
        action="store_true",
        help="do not ask a rank through the pipe of TORCH_NCCL_DEBUG_INFO_PIPE_FILE, which makes it write a dump",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document with all that was seen")
    files = parser.add_argument_group("from files, of a job that may have ended")
    files.add_argument(
        "--dumps", type=Path, metavar="DIR", help="folder of flight recorder dumps, one file a rank"
    )
    files.add_argument(
        "--stacks",
        type=Path,
        metavar="DIR",
        help="folder of stacks, one file a rank: py-spy dump (text or --json) or faulthandler",
    )
    slurm = parser.add_argument_group("jobs of Slurm")
    slurm.add_argument(
        "--on", choices=("local", "slurm"), default="local", help="slurm: look on every node of --job (srun)"
    )
    slurm.add_argument(
        "--job", metavar="JOBID", help="only ranks of this Slurm job; with --on slurm, on all its nodes"
    )
    slurm.add_argument(
        "--prefix",
        default="",
        metavar="WORDS",
        help="with --on slurm: command to put before Python; it must see the processes of the node",
    )
    slurm.add_argument("--python", metavar="PATH", help="with --on slurm: Python on the nodes")


def _pid(text: str) -> int:
    value = int(text)
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not a process id")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0, {_MOST_SECONDS:g} at most"
        )
    return value


def run(arguments: argparse.Namespace) -> int:
    """Print the answer. Exit status: 1 a rank or a place is named, 0 every job went on, 3 unknown.

    Raises:
        InputError: no such process, no rank here, no file that can be used, or options that exclude each other.
    """
    _demand_one_source(arguments)
    if arguments.dumps or arguments.stacks:
        snapshot = _from_files(arguments.dumps, arguments.stacks)
    elif arguments.on == "slurm":
        snapshot = look_at_job(arguments)
    else:
        snapshot = _from_here(arguments)
    verdicts = judge_hang(snapshot)
    status = hang_status(verdicts)
    if arguments.json:
        print(json_text(as_document(snapshot, verdicts, status)))
    else:
        print_hangs(sys.stdout, snapshot, verdicts)
    return status


def hang_status(verdicts: Sequence[HangVerdict]) -> int:
    """The exit status of these answers, one a job."""
    kinds = {one.kind for one in verdicts}
    if kinds - {HangKind.MOVING, HangKind.UNKNOWN}:
        return FOUND
    return MOVED if kinds == {HangKind.MOVING} else UNKNOWN


def _demand_one_source(arguments: argparse.Namespace) -> None:
    files = bool(arguments.dumps or arguments.stacks)
    live = bool(arguments.pid or arguments.all or arguments.job)
    if files and (live or arguments.on == "slurm"):
        raise InputError("--dumps and --stacks read files; omit --pid, --all, --on and --job")
    if arguments.on == "slurm" and (arguments.pid or not arguments.job):
        raise InputError("--on slurm needs --job JOBID, and no --pid; squeue lists the jobs")
    if arguments.on != "slurm" and (arguments.prefix or arguments.python):
        raise InputError("--prefix and --python require --on slurm")
    if arguments.pid and arguments.job:
        raise InputError("--job selects among all ranks; omit --pid")


def _from_files(dumps: Path | None, stacks: Path | None) -> Snapshot:
    looks: tuple[RankLook, ...] = ()
    taken, unread = read_dumps(dumps) if dumps else ((), ())
    if stacks:
        looks, unseen = read_stacks(stacks)
        unread += unseen
    return Snapshot(seconds=0, ranks=joined_looks(taken, looks), unseen=unread)


def _from_here(arguments: argparse.Namespace) -> Snapshot:
    for pid in arguments.pid or ():
        if stat_of(pid) is None:
            raise InputError(f"there is no process {pid}; ps -e lists the running ones")
    snapshot = observe(
        arguments.pid,
        seconds=arguments.seconds,
        node=os.environ.get("SLURMD_NODENAME") or platform.node(),
        dump=not arguments.no_dump,
        among=_of_slurm_job(arguments.job) if arguments.job else None,
    )
    # A node of a job without a rank there is an answer for the one who asks every node of the job.
    if not snapshot.ranks and not (arguments.json and arguments.job):
        blind = [f"; {one.source}: {one.reason}" for one in snapshot.unseen if one.source == "ranks"]
        raise InputError(
            f"no rank of a torch job runs here{f' in Slurm job {arguments.job}' if arguments.job else ''}"
            f"{''.join(blind[:1])}; name a process with --pid, or run this on a node of the job"
        )
    return snapshot


def _of_slurm_job(job: str) -> Callable[[RankProcess], bool]:
    # In a step of this job, the node's own name counts too.
    inside = os.environ.get("SLURM_JOB_ID") == job
    return in_slurm_job(job, os.environ.get("SLURMD_NODENAME") if inside else None)
