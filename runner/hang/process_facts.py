"""What /proc tells of processes that may be ranks: their environments, libraries and command lines. Reads only."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from runner.base.environment import read_environ, variables_in
from runner.base.errors import InputError, RunbookError
from runner.base.parallel import give_up, in_parallel
from runner.base.placed import PlacedFileError, read_placed
from runner.base.processes import Stat
from runner.hang.model import Unseen
from runner.hang.rank_process import RankProcess, told_of

RANKS = "ranks"
_PROC = Path("/proc")
# A process whose memory lies on a dead mount does not answer: no answer of any process for this long, in seconds.
_ANSWER_S, _GIVE_UP_S = 2.0, 0.1
_AT_ONCE = 16
_MOST_BYTES = 64 << 20
_TORCH = b"libtorch"
# Programs that start ranks and map torch themselves. Words of a command line, or the ends of paths in it.
_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "torch/distributed/run.py")
_WORDS_OF_LAUNCH = 4


def environments_of(stats: Sequence[Stat]) -> tuple[dict[int, RankProcess], dict[int, list[Unseen]]]:
    """Each process with what its environment says; those whose environment cannot be read, with the reason."""
    told: dict[int, RankProcess] = {}
    refused: dict[int, list[Unseen]] = {}
    futures = in_parallel(lambda stat: told_of(variables_in(read_environ(stat.pid))), stats, _AT_ONCE)
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, _ANSWER_S, FIRST_COMPLETED)
        if not done:
            break
    for stat, future in zip(stats, futures, strict=True):
        if not future.done():
            refused[stat.pid] = [
                Unseen(source=RANKS, reason="a process does not answer when its memory is read")
            ]
            continue
        try:
            told[stat.pid] = RankProcess(stat.pid, stat.started, future.result())
        except InputError:
            continue
        except RunbookError:
            reason = "no permission to read the environment of a process; run this as its user, or as root"
            refused[stat.pid] = [Unseen(source=RANKS, reason=reason)]
    give_up([future for future in futures if not future.done()], _GIVE_UP_S)
    return told, refused


def has_torch(pid: int) -> bool:
    """Whether torch is loaded in a process, as far as this user may know."""
    try:
        return _TORCH in read_placed(_PROC / str(pid) / "maps", _MOST_BYTES)
    except PlacedFileError:
        return False


def is_launcher(pid: int) -> bool:
    """Whether a process is torchrun, under any of its names."""
    try:
        words = read_placed(_PROC / str(pid) / "cmdline", _MOST_BYTES).split(b"\0")[:_WORDS_OF_LAUNCH]
    except PlacedFileError:
        return False
    return any(word.decode(errors="replace").endswith(_LAUNCHERS) for word in words)


def in_slurm_job(job: str, node: str | None) -> Callable[[RankProcess], bool]:
    """Whether a process belongs to this job of Slurm, by its environment or its cgroup.

    `node`: only those that Slurm has started as on this node: several of its nodes may be one host.
    """

    def is_in(process: RankProcess) -> bool:
        told = process.told
        if node is not None and told.get("SLURMD_NODENAME", node) != node:
            return False
        return told.get("SLURM_JOB_ID") == job or _in_cgroup(process.pid, f"job_{job}")

    return is_in


def _in_cgroup(pid: int, name: str) -> bool:
    try:
        text = read_placed(_PROC / str(pid) / "cgroup", _MOST_BYTES).decode(errors="replace")
    except PlacedFileError:
        return False
    return any(name in line.rpartition(":")[2].split("/") for line in text.splitlines())
