"""Real ranks over gloo that hang by one rank's fault, as processes of the test; and processes that look like ranks."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.hang.model import Stack, Unseen
from runner.hang.spying import StackTaker
from tests.cluster import free_ports, until

ROOT = Path(__file__).parents[1]
# Rank 1 does not enter the last collective until its standard input ends.
PROGRAM = """
import os, signal, sys
import torch, torch.distributed as dist
from torch.distributed.elastic.control_plane import worker_main

def hold():
    sys.stdin.read()

with worker_main():
    dist.init_process_group("gloo")
    for step in range(4):
        dist.all_reduce(torch.ones(8))
    if dist.get_rank() == 1:
        hold()
    dist.all_reduce(torch.ones(8))
    # Without this, gloo aborts a rank at its exit now and then.
    dist.destroy_process_group()
"""
# Maps a file of that name, as a process that has imported torch does.
LOOKALIKE = """
import mmap, os, subprocess, sys
with open(os.path.join(sys.argv[1], "libtorch_cpu.so"), "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print("ready", flush=True)
"""


@dataclass
class HangingJob:
    """Ranks that wait for rank 1. `release` lets it go on."""

    ranks: "list[subprocess.Popen[bytes]]"

    @property
    def pids(self) -> list[int]:
        return [rank.pid for rank in self.ranks]

    def release(self) -> list[int]:
        """Let rank 1 enter the collective; the exit statuses of all ranks."""
        stream = self.ranks[1].stdin
        assert stream
        stream.close()
        return [rank.wait(100) for rank in self.ranks]


@contextlib.contextmanager
def hanging_job(number: int = 3, **variables: str) -> Iterator[HangingJob]:
    """A job whose ranks all are where they hang; its processes end with the block."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="rb-hang-") as folder, contextlib.ExitStack() as stack:
        program = Path(folder) / "train.py"
        program.write_text(PROGRAM, encoding="utf-8")
        ranks = []
        for rank in range(number):
            told = rank_environment(rank, number, port) | {
                "TORCH_WORKER_SERVER_SOCKET": f"{folder}/socket{rank}",
                "TORCH_FR_BUFFER_SIZE": "200",
            }
            with (Path(folder) / f"out{rank}").open("wb") as output:
                ranks.append(
                    subprocess.Popen(
                        [sys.executable, str(program)],
                        env={**os.environ, **told, **variables},
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=output,
                        cwd=folder,
                    )
                )
            stack.callback(_end, ranks[-1])
        with StackTaker() as taker:

            def all_hang() -> bool:
                assert all(rank.poll() is None for rank in ranks), (Path(folder) / "out0").read_text()
                wanted = ["hold" if rank == 1 else "all_reduce" for rank in range(number)]
                return [
                    name in functions_of(taker.stack(rank.pid, 60.0))
                    for rank, name in zip(ranks, wanted, strict=True)
                ] == [True] * number

            # All have left the first collectives when rank 1 is where it waits.
            until(all_hang, "the ranks to hang")
            yield HangingJob(ranks)


def functions_of(answer: Stack | Unseen) -> list[str]:
    return [] if isinstance(answer, Unseen) else [frame.function for frame in answer]


def rank_environment(rank: int, number: int, port: int) -> dict[str, str]:
    """What torchrun sets for a rank of a job on one node."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


@contextlib.contextmanager
def lookalike(
    folder: Path, told: Mapping[str, str], then: str = "sys.stdin.read()", words: Sequence[str] = ()
) -> "Iterator[subprocess.Popen[str]]":
    """A process with this environment that seems to have torch; it does `then` and ends with the block."""
    (folder / "libtorch_cpu.so").write_bytes(b"\0" * 4096)
    bare = {name: value for name, value in os.environ.items() if name not in rank_environment(0, 1, 1)}
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKALIKE + then, str(folder), *words],
        env={**bare, **told},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
