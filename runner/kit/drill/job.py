"""The job that a drill runs: how many ranks, over what, and what a healthy step takes on this machine."""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from runner.base.errors import InputError
from runner.hardware.gpus import visible_count
from runner.kit.children import ended_by_sigterm
from runner.kit.drill.injection import Injection
from runner.kit.drill.local_ranks import LocalRanks
from runner.kit.drill.worker import DUMP, DUMPS
from runner.kit.probe import NotApplicableError
from runner.kit.usable import usable_gpus

# Seconds of a drill, against a hang of the drill itself.
_DEADLINE_S = 280.0
# Seconds of compute of a step without other load; the timeout while the job starts.
_COMPUTE_S, _START_TIMEOUT_S = 0.015, 120.0
_HEALTHY_STEPS, _UNTIMED = 10, 2
# The timeout that a drill chooses lasts this often the start of the ranks, and this many steps: looking at all ranks
# starts programs too, and must be over before the ranks give up.
_TIMEOUT_S, _STARTS, _STEPS = 8.0, 1.5, 60
_GLOO_RANKS = 3


# Of NCCL itself.
SHARED_GPUS = "NCCL_MULTI_RANK_GPU_ENABLE"


@dataclass(frozen=True)
class JobShape:
    """What to start: how many ranks, over `gloo` or `nccl`."""

    ranks: int
    backend: str


@dataclass(frozen=True)
class Rehearsal:
    """Healthy steps of this job on this machine.

    Attributes:
        units: of compute in a step.
        step_s: median seconds of a step, of all ranks.
        start_s: seconds from the start of the ranks until all had joined.
    """

    units: int
    step_s: float
    start_s: float

    @property
    def timeout_s(self) -> float:
        """A timeout of the collectives that outlasts a look at the ranks."""
        return max(_TIMEOUT_S, _STARTS * self.start_s, _STEPS * self.step_s)


def shape_of(arguments: argparse.Namespace) -> JobShape:
    """The ranks and the backend that the arguments ask for, or that suit this host.

    Raises:
        InputError: fewer than two ranks, or more over NCCL than there are GPUs.
        NotApplicableError: there is one GPU, and NCCL needs a GPU for each rank.
    """
    gpus = visible_count()
    backend = arguments.backend
    if backend == "auto":
        backend = "nccl" if gpus else "gloo"
    ranks = arguments.ranks
    if backend == "nccl":
        # Not before: gloo needs no driver.
        usable = usable_gpus()
        shared = os.environ.get(SHARED_GPUS) == "1"
        if not usable:
            raise NotApplicableError(
                "ranks over NCCL need GPUs, and none is visible; --backend gloo drills on the CPU"
            )
        if usable == 1 and not shared:
            raise NotApplicableError(
                "ranks over NCCL need two GPUs, and one is visible; --backend gloo drills on the CPU, "
                f"and {SHARED_GPUS}=1 lets ranks share a GPU (NCCL 2.30 and newer)"
            )
        if ranks is None:
            ranks = max(usable, _GLOO_RANKS) if shared else usable
        if ranks > usable and not shared:
            raise InputError(
                f"--ranks {ranks}: NCCL needs a GPU for each; {usable} are visible (--backend gloo needs none)"
            )
        if ranks > usable and arguments.fault == "neighbour":
            raise NotApplicableError(f"ranks that share a GPU are neighbours already; unset {SHARED_GPUS}")
    ranks = _GLOO_RANKS if ranks is None else ranks
    if ranks < 2:  # noqa: PLR2004 - a rank alone waits for nobody
        raise InputError(f"--ranks {ranks}: a drill needs two ranks or more")
    return JobShape(ranks, backend)


class DrilledRanks:
    """The ranks of a job, joined and ready for commands.

    Attributes:
        shape: of the job.
        folder: with the dumps, the sockets and the output of the ranks; removed with the ranks.
        local: its ranks, all on this host.
    """

    def __init__(self, shape: JobShape, folder: Path, local: LocalRanks, start_s: float) -> None:
        self.shape, self.folder, self.local = shape, folder, local
        self._start_s = start_s

    def rehearse(self) -> Rehearsal:
        """Size the compute of a step for this machine, then run healthy steps."""
        found = self.local.ask({"do": "measure"}, "measuring the speed of its compute")
        units = max(1, round(_COMPUTE_S / median(one["unit"] for one in found)))
        answers = self.steps(_HEALTHY_STEPS, Rehearsal(units, 0.0, self._start_s), _START_TIMEOUT_S)
        taken = [
            step["data"] + step["compute"] + step["wait"] for answer in answers for step in answer[_UNTIMED:]
        ]
        return Rehearsal(units, median(taken), self._start_s)

    def spread_anew(self, turn: int) -> None:
        """Put each rank on another core than before, where it may leave: no rank keeps the neighbours of its core."""
        if self.shape.backend == "gloo":
            allowed = sorted(os.sched_getaffinity(0))
            for rank, pid in enumerate(self.local.pids):
                os.sched_setaffinity(pid, {allowed[(rank + turn) % len(allowed)]})
                os.sched_setaffinity(pid, allowed)

    def steps(self, count: int, rehearsal: Rehearsal, timeout_s: float) -> list[list[dict[str, Any]]]:
        """Run healthy steps; what `Training.steps` yields, by rank and step."""
        self.begin(count, rehearsal, timeout_s, None)
        return [answer["steps"] for answer in self.local.ask(None, "running steps")]

    def begin(
        self,
        count: int,
        rehearsal: Rehearsal,
        timeout_s: float,
        fault: Injection | None,
        longest_s: float = 0.0,
    ) -> None:
        """Let the ranks run steps, with a fault or without; the answers are for the caller.

        Args:
            count: the most steps.
            rehearsal: its `units` are the compute of a step.
            timeout_s: of the collectives.
            fault: the fault.
            longest_s: after which a lateness ends by itself.
        """
        self.local.tell(
            {
                "do": "steps",
                "count": count,
                "units": rehearsal.units,
                "timeout": timeout_s,
                "longest": longest_s,
                "fault": fault.as_command() if fault else None,
            }
        )

    def signal(self, file: str) -> None:
        """Make one of the files that ranks look for: `worker.RELEASE` or `worker.STOP`."""
        (self.folder / file).touch()


@contextlib.contextmanager
def drilled_ranks(shape: JobShape) -> Iterator[DrilledRanks]:
    """Start ranks with a flight recorder and a worker server, and wait until all have joined.

    Raises:
        RankError: a rank ended, or did not join.
    """
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="drill-") as name:
        folder, began = Path(name), time.monotonic()
        (folder / DUMPS).mkdir()
        program = (
            "-m", "runner.kit.drill.worker", f"--backend={shape.backend}", f"--folder={name}",
            f"--parent={os.getpid()}", f"--timeout={_START_TIMEOUT_S:g}",
        )  # fmt: skip
        with LocalRanks(program, shape.ranks, _environment(folder), folder, began + _DEADLINE_S) as local:
            local.ask(None, "joining the group")
            yield DrilledRanks(shape, folder, local, time.monotonic() - began)


def _environment(folder: Path) -> dict[str, str]:
    prefix = str(folder / DUMPS / DUMP)
    recorder = {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": prefix,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": prefix,
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(folder / "pipe_"),
    }
    # All ranks are on this host; its host name may not resolve to a reachable address.
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | dict(os.environ) | recorder
