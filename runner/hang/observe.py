"""Everything that can be seen of the jobs on this node in a few seconds, as one snapshot. Reads only.

All sources are asked at once, each within its own time limit: one that hangs takes nothing from the others, and is
named in the snapshot.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from runner.base.parallel import give_up, in_parallel
from runner.hang.gpu_load import NO_GPU, gpu_loads
from runner.hang.model import GpuLoad, RankLook, RasReport, Snapshot, Unseen, XidLine
from runner.hang.process_facts import RANKS
from runner.hang.rank_process import RankProcess
from runner.hang.ranks_here import find_ranks
from runner.hang.ras import ask_ras, ras_address
from runner.hang.ras_counts import RasError
from runner.hang.spying import StackTaker
from runner.hang.watching import RankWatch
from runner.hang.xid_lines import xid_lines

SECONDS = 3.0
RAS = "NCCL RAS"
# When the last source has to have answered, after the begin and after the observation, in seconds.
_LATEST_S, _AFTER_S = 8.0, 4.5
_SIDE_S = 4.0
_GIVE_UP_S = 0.2

_Answer = TypeVar("_Answer")
Gpus = tuple[Mapping[int, GpuLoad], tuple[Unseen, ...]]
Xids = tuple[tuple[XidLine, ...], tuple[Unseen, ...]]


def observe(
    pids: Sequence[int] | None,
    *,
    seconds: float = SECONDS,
    node: str,
    dump: bool = True,
    among: Callable[[RankProcess], bool] | None = None,
) -> Snapshot:
    """Look at the ranks on this node. No process is stopped for longer than a stack takes, none gets a signal.

    Args:
        pids: these processes; the pid of torchrun stands for its ranks. None: every rank of this user.
        seconds: length of the observation; the answer comes some seconds later at most.
        node: the name of this node, for the reader.
        dump: whether ranks that are set up for it may be asked to write a dump of their flight recorder.
        among: as of `find_ranks`.
    """
    here = find_ranks(pids, node, among)
    over = threading.Event()
    with StackTaker() as stacks:
        watch = RankWatch(node, time.monotonic(), seconds, dump, stacks, over)
        try:
            return _observed(watch, here.processes, here.gone, here.unseen)
        finally:
            over.set()


def _observed(
    watch: RankWatch, ranks: Sequence[RankProcess], gone: Sequence[RankLook], unseen: Sequence[Unseen]
) -> Snapshot:
    deadline = watch.began + max(_LATEST_S, watch.seconds + _AFTER_S)
    gpus = _started(lambda: gpu_loads(_SIDE_S))
    xids = _started(lambda: xid_lines(watch.node, _age_s(ranks)))
    ras = _started(lambda: _ras(ranks))
    looks = in_parallel(watch.look, ranks, len(ranks))
    everything: Sequence[Future[Any]] = (*looks, gpus, xids, ras)
    wait(everything, max(0.0, deadline - time.monotonic()))
    watch.over.set()
    give_up(looks, _GIVE_UP_S)
    loads, blind = _answered(gpus, ({}, (_late("GPU"),)))
    lines, deaf = _answered(xids, ((), (_late("kernel log"),)))
    report: RasReport | Unseen | None = _answered(ras, _late(RAS))
    if any(one.reason == NO_GPU for one in blind) and isinstance(report, Unseen):
        # NCCL does not run here, so there is nothing that was missed.
        report = None
    found = [_look_of(one, future, watch.node, loads) for one, future in zip(ranks, looks, strict=True)]
    silent = (report,) if isinstance(report, Unseen) else ()
    return Snapshot(
        seconds=watch.seconds,
        ranks=(*found, *gone),
        xids=lines,
        ras=report if isinstance(report, RasReport) else None,
        unseen=(*unseen, *blind, *deaf, *silent),
    )


def _look_of(
    process: RankProcess, future: "Future[RankLook]", node: str, loads: Mapping[int, GpuLoad]
) -> RankLook:
    if not future.done() or future.cancelled():
        return RankLook(
            node=node,
            job=process.job,
            rank=process.rank,
            world_size=process.world_size,
            pid=process.pid,
            unseen=(Unseen(source=RANKS, reason="no answer in time from what reads a process"),),
        )
    return future.result().model_copy(update={"gpu": loads.get(process.pid)})


def _ras(ranks: Sequence[RankProcess]) -> RasReport | Unseen:
    # Any rank of a job answers for all of it.
    jobs = {one.job: one.told for one in ranks}
    if len(jobs) > 1:
        return Unseen(
            source=RAS, reason="several jobs run here; with --pid, the job of that process is asked"
        )
    told = next(iter(jobs.values()), {})
    try:
        address, port = ras_address(told)
        return ask_ras(address, port, _SIDE_S)
    except RasError as error:
        return Unseen(source=RAS, reason=str(error))


def _age_s(ranks: Sequence[RankProcess]) -> float:
    """Seconds since the first of them was started."""
    started = min((one.started for one in ranks), default=0) / os.sysconf("SC_CLK_TCK")
    return max(1.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _started(work: Callable[[], _Answer]) -> "Future[_Answer]":
    return in_parallel(lambda _: work(), (None,), 1)[0]


def _answered(future: "Future[_Answer]", otherwise: _Answer) -> _Answer:
    return future.result() if future.done() else otherwise


def _late(source: str) -> Unseen:
    return Unseen(source=source, reason="no answer in time")
