"""Busy processes beside one rank: on its core, or on its GPU. No torch here.

The culprit has a core to itself, and the other ranks share what is left. So that the culprit is the slowest on any
machine, the neighbours on its core are more than the ranks that share another one.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from runner.base.errors import RunbookError
from runner.kit.children import Child
from runner.kit.drill.job import DrilledRanks, Rehearsal
from runner.kit.probe import NotApplicableError

# The share of its core that the culprit gets is this many times smaller than that of any other rank, and at least this
# many processes share its core: what else runs on a busy machine moves to the other cores.
_SLOWER, _FEWEST_SHARING = 3, 6
_START_S, _POLL_S, _BUSY_TICKS = 60.0, 0.05, 5
_USER_TIME = 11
# The fault is there when the culprit computes this many times as long as the others, in a few steps.
_FAULT, _STEPS, _TIMEOUT_S, _MOST_ADDITIONS = 2.0, 6, 120.0, 4


@dataclass(frozen=True)
class Layout:
    """Which core each rank is held on, and how many neighbours the culprit's core gets."""

    cores: tuple[int, ...]
    neighbours: int


def layout_of(ranks: int, culprit: int, cores: tuple[int, ...]) -> Layout:
    """The layout for these cores, of which the culprit has the last.

    Raises:
        NotApplicableError: there is one core only.
    """
    *shared, own = cores
    if not shared:
        raise NotApplicableError("a neighbour on one rank's core needs two cores; this process may use one")
    others = [rank for rank in range(ranks) if rank != culprit]
    core_of = {rank: shared[place % len(shared)] for place, rank in enumerate(others)} | {culprit: own}
    most = math.ceil(len(others) / len(shared))
    return Layout(tuple(core_of[rank] for rank in range(ranks)), max(_FEWEST_SHARING, _SLOWER * most) - 1)


@contextlib.contextmanager
def neighbours_of(culprit: int, drilled: DrilledRanks, rehearsal: Rehearsal) -> Iterator[int]:
    """Hold the ranks on their cores, and keep processes busy beside the culprit; gives their number.

    What else runs on a busy machine slows the other ranks, so neighbours are added until the culprit is the slowest.

    Raises:
        NotApplicableError: as of `layout_of`.
        RunbookError: the neighbours do not get to run, or do not slow the culprit.
    """
    local = drilled.local
    with contextlib.ExitStack() as stack:
        if drilled.shape.backend == "nccl":
            # What it takes from a rank on a GPU is the GPU.
            count, where = 1, f"--gpu={culprit}"
        else:
            layout = layout_of(local.ranks, culprit, tuple(sorted(os.sched_getaffinity(0))))
            count, where = layout.neighbours, f"--core={layout.cores[culprit]}"
            for pid, core in zip(local.pids, layout.cores, strict=True):
                os.sched_setaffinity(pid, {core})
        started: list[int] = []
        for _ in range(_MOST_ADDITIONS):
            while len(started) < count:
                started.append(_start(where, drilled.folder / f"neighbour_{len(started)}", stack))
            _await_busy(started)
            if _slowed(culprit, drilled, rehearsal) >= _FAULT:
                break
            count *= 2
        else:
            raise RunbookError(
                f"{len(started)} busy processes beside rank {culprit} do not slow it: other work slows the other ranks"
                " as much; run this on a machine with less load"
            )
        yield len(started)


def _start(where: str, output: Path, stack: contextlib.ExitStack) -> int:
    words = [sys.executable, "-m", "runner.kit.drill.neighbour", f"--parent={os.getpid()}", where]
    # Each in a session of its own: the kernel shares a core between sessions first.
    return stack.enter_context(Child(words, os.environ, output, grace_s=0.0)).pid


def _slowed(culprit: int, drilled: DrilledRanks, rehearsal: Rehearsal) -> float:
    """Compute of the culprit ÷ median of the others, over a few steps."""
    taken: list[float] = [
        median(step["compute"] for step in steps) for steps in drilled.steps(_STEPS, rehearsal, _TIMEOUT_S)
    ]
    others = median([one for rank, one in enumerate(taken) if rank != culprit])
    return taken[culprit] / others


def _await_busy(pids: list[int]) -> None:
    deadline = time.monotonic() + _START_S
    while not all(_user_ticks(pid) >= _BUSY_TICKS for pid in pids):
        if time.monotonic() > deadline:
            raise RunbookError(
                f"the neighbours did not get to run within {_START_S:g} s; this machine is too busy"
            )
        time.sleep(_POLL_S)


def _user_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[_USER_TIME]
        )
    raise RunbookError("a neighbour ended; is its GPU or its core taken from this process?")
