"""`runbook hang --on slurm` on a real Slurm of eight nodes on this machine, and what Slurm may answer."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.base.processes import stat_of
from runner.fleet.commands import Done, SlurmError
from runner.fleet.job_steps import find_job
from runner.hang.spying import StackTaker
from tests.cluster import Cluster, cluster, installed, until
from tests.hanging_ranks import ROOT, functions_of

needs_slurm = [
    pytest.mark.system,
    pytest.mark.host,
    pytest.mark.skipif(not installed(), reason="needs Slurm: apt-get install slurm-wlm munge"),
]
NODES = 8
LATE = 2
# One rank a node; rank 2 does not enter the last collective before the file `go` is there.
RANK = """
import os, pathlib, sys, time
import torch, torch.distributed as dist
here = pathlib.Path(sys.argv[1])
rank = int(os.environ["SLURM_PROCID"])
dist.init_process_group("gloo", rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
for step in range(4):
    dist.all_reduce(torch.ones(8))

def hold():
    while not (here / "go").exists():
        time.sleep(0.05)

(here / f"pid{rank}").write_text(str(os.getpid()))
if rank == LATE:
    hold()
dist.all_reduce(torch.ones(8))
(here / f"done{rank}").touch()
# Ranks that only exit may abort in torch's own threads.
dist.destroy_process_group()
""".replace("LATE", str(LATE))
BATCH = """#!/bin/bash
export MASTER_ADDR=127.0.0.1 MASTER_PORT={port} WORLD_SIZE={nodes} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo
exec srun {python} {here}/rank.py {here}
"""
# A node on which the look never ends, and one on which it fails.
WRAP = """#!/bin/bash
case "$SLURMD_NODENAME $*" in
    "n5 "*" hang "*) exec sleep 1000;;
    "n6 "*" hang "*) echo 'runbook: the disk of this node is full' >&2; exit 9;;
esac
exec "$@"
"""


class SlurmJob:
    """A running job of one rank a node whose ranks wait for rank 2; its files lie in `here`."""

    def __init__(self, slurm: Cluster, here: Path) -> None:
        self.slurm, self.here = slurm, here
        self.environment = {**os.environ, **slurm.environment}
        (here / "rank.py").write_text(RANK, encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        script = BATCH.format(port=port, nodes=NODES, python=sys.executable, here=here)
        words = ["sbatch", "--parsable", f"--nodes={NODES}", "--ntasks-per-node=1", "--chdir=/"]
        done = subprocess.run(
            [*words, f"--output={here}/output"],
            input=script,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self.id = done.stdout.strip()
        until(lambda: all((here / f"pid{rank}").exists() for rank in range(NODES)), "the ranks to start")
        self.pids = [int((here / f"pid{rank}").read_text()) for rank in range(NODES)]
        with StackTaker() as taker:
            until(
                lambda: all(
                    ("hold" if rank == LATE else "all_reduce") in functions_of(taker.stack(pid, 60.0))
                    for rank, pid in enumerate(self.pids)
                ),
                "the ranks to hang",
            )

    def look(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.words(*words),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "runner.cli.main", "hang", "--on", "slurm", "--job", self.id, *words]

    def steps(self) -> int:
        """The steps of the job that run now, the batch script's included."""
        return self.slurm.run("scontrol", "--oneliner", "show", "step").stdout.count("StepId=")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster(NODES) as made:
        yield made


@pytest.fixture(scope="module")
def job(slurm: Cluster) -> Iterator[SlurmJob]:
    with tempfile.TemporaryDirectory(prefix="rb-hang-", ignore_cleanup_errors=True) as folder:
        made = SlurmJob(slurm, Path(folder))
        yield made
        slurm.run("scancel", made.id)
        until(lambda: slurm.queue() == [], "the job to end")


def marked(function: object) -> object:
    for mark in needs_slurm:
        function = mark(function)
    return function


@marked
def test_the_late_rank_of_a_job_on_eight_nodes_is_named_with_its_node(job: SlurmJob) -> None:
    status, out, error = job.look()
    assert (status, error) == (1, "")
    first, *lines = out.splitlines()
    assert first.startswith(f"rank {LATE} (n{LATE + 1}, pid {job.pids[LATE]}) has not entered all_reduce")
    assert f"in which {NODES - 1} ranks wait" in first
    assert "hold (rank.py:" in first
    assert [line for line in lines if line.startswith("0, 1, 3-7  7 nodes")]
    assert not [line for line in lines if line.startswith("not seen: node")]
    # The look's own steps have ended, and the job's have not.
    until(lambda: job.steps() == 2, "the steps of the look to end")


@marked
def test_a_stopped_rank_is_named_with_its_node_and_stays_stopped(job: SlurmJob) -> None:
    os.kill(job.pids[6], signal.SIGSTOP)
    try:
        status, out, _ = job.look("--seconds", "1")
        assert status == 1
        assert out.startswith(f"rank 6 (n7, pid {job.pids[6]}) is stopped")
        stat = stat_of(job.pids[6])
        assert stat
        assert stat.state == "T"
    finally:
        os.kill(job.pids[6], signal.SIGCONT)


@marked
def test_nodes_without_an_answer_are_named_and_the_others_still_tell(job: SlurmJob) -> None:
    wrap = job.here / "wrap"
    wrap.write_text(WRAP, encoding="utf-8")
    wrap.chmod(0o755)
    status, out, _ = job.look("--seconds", "1", "--prefix", str(wrap))
    lines = out.splitlines()
    assert status == 1
    assert f"rank {LATE} (n{LATE + 1}, pid {job.pids[LATE]}) has not entered all_reduce" in lines[0]
    (failed,) = [line for line in lines if line.startswith("not seen: node n6: ")]
    assert "the disk of this node is full" in failed
    (late,) = [line for line in lines if line.startswith("not seen: node n5: ")]
    assert "no answer in time" in late
    until(lambda: job.steps() == 2, "the steps of the look to end")


@marked
def test_an_interrupt_ends_the_looks_on_all_nodes_and_nothing_else(job: SlurmJob) -> None:
    with subprocess.Popen(
        job.words("--seconds", "500"), cwd=ROOT, env=job.environment, stderr=subprocess.PIPE, text=True
    ) as looking:
        until(lambda: job.steps() == 2 + NODES, "the looks to begin")
        looking.send_signal(signal.SIGINT)
        _, error = looking.communicate(timeout=100)
    assert looking.returncode == 130
    assert "Traceback" not in error
    until(lambda: job.steps() == 2, "the steps of the look to end")
    assert all((stat := stat_of(pid)) is not None and stat.lives for pid in job.pids)


@marked
def test_the_job_goes_on_unharmed_and_cannot_be_looked_at_when_it_has_ended(job: SlurmJob) -> None:
    # The last test of this module: the others looked at this job.
    (job.here / "go").touch()
    until(lambda: all((job.here / f"done{rank}").exists() for rank in range(NODES)), "the ranks to go on")
    until(lambda: job.slurm.queue() == [], "the job to end")
    assert "ExitCode=0:0" in job.slurm.run("scontrol", "show", "job", job.id).stdout
    status, _, error = job.look()
    assert status == 2
    assert error.count("\n") == 1
    assert "only a running job can be looked at" in error or "Slurm has no job" in error


def answering(answers: dict[str, Done]) -> object:
    def run(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        return answers[words[0]]

    return run


def test_a_job_is_found_by_the_number_that_squeue_shows() -> None:
    run = answering({"squeue": Done(0, b"4712|RUNNING|n[1-2]\n", ""), "scontrol": Done(0, b"n1\nn2\n", "")})
    found = find_job("4711_2", run)  # type: ignore[arg-type]
    assert (found.id, found.nodes) == ("4712", ("n1", "n2"))


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (Done(0, b"", ""), "has no job 7"),
        (Done(1, b"", "slurm_load_jobs error: Invalid job id specified"), "has no job 7"),
        (Done(0, b"7|PENDING|\n", ""), "is PENDING, not RUNNING"),
        (Done(0, b"8|RUNNING|n1\n9|RUNNING|n2\n", ""), "stands for 2 jobs"),
    ],
)
def test_a_job_that_does_not_run_is_bad_input(done: Done, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_job("7", answering({"squeue": done}))  # type: ignore[arg-type]


def test_a_slurm_that_does_not_answer_is_not_a_job_that_does_not_exist() -> None:
    done = Done(1, b"", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(SlurmError, match="Unable to contact"):
        find_job("7", answering({"squeue": done}))  # type: ignore[arg-type]
