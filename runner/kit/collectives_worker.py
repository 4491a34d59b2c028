"""One rank of the `collectives` probe: waits for commands, runs a collective, returns its times.

Commands: `{"op", "bytes", "check": true}` returns `{"wrong": elements}`;
`{"op", "bytes", "warmup", "iterations"}` returns `{"seconds": [one per iteration]}`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runner.kit.rank_line import RankLine, serve

if TYPE_CHECKING:
    import torch

# Elements filled or checked at a time: limits the memory of a check on an 8 GiB message.
_CHUNK = 1 << 22
_LARGEST = 8
# Repeated in-place sums grow n-fold each time; starting from 2^-100, even eight ranks stay finite for 70 iterations.
_SMALL = 2.0**-100


def main(argv: Sequence[str] | None = None) -> int:
    """Join the group, then serve commands until the connection closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), required=True)
    parser.add_argument(
        "--timeout", type=float, required=True, help="timeout of the process group in seconds"
    )
    arguments = parser.parse_args(argv)
    return serve(lambda line: _work(line, arguments.backend, arguments.timeout))


def _work(line: RankLine, backend: str, timeout: float) -> None:
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    line.mark("in rendezvous")
    dist.init_process_group(
        backend,
        timeout=timedelta(seconds=timeout),
        device_id=device if backend == "nccl" else None,
    )
    try:
        cuda: Any = torch.cuda
        nccl = ".".join(map(str, cuda.nccl.version())) if backend == "nccl" else None
        line.send({"ready": True, "torch": torch.__version__, "nccl": nccl})
        for command in line.commands():
            collective = Collective(command["op"], command["bytes"], device)
            line.mark(f"in {command['op']}")
            if command.get("check"):
                line.send({"wrong": collective.wrong_elements()})
            else:
                line.send({"seconds": collective.timed(command["warmup"], command["iterations"])})
    finally:
        dist.destroy_process_group()


class Collective:
    """One collective on fp32 buffers of a given message size, in bytes, counted as in nccl-tests."""

    def __init__(self, op: str, size: int, device: "torch.device") -> None:
        import torch
        import torch.distributed as dist

        self.rank, self.ranks, self.device = dist.get_rank(), dist.get_world_size(), device
        self.op, elements = op, size // 4
        part = elements // self.ranks
        sent = part if op == "all_gather" else elements
        received = {"reduce_scatter": part, "all_gather": elements, "all_to_all": elements}.get(op, 0)
        self.sent = torch.empty(sent, device=device)
        # all_reduce and broadcast work in place.
        self.received = torch.empty(received, device=device) if received else self.sent

    def run(self) -> None:
        """Enqueue the collective once."""
        import torch.distributed as dist

        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(self.sent),
            "all_gather": lambda: dist.all_gather_into_tensor(self.received, self.sent),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(self.received, self.sent),
            "all_to_all": lambda: dist.all_to_all_single(self.received, self.sent),
            "broadcast": lambda: dist.broadcast(self.sent, src=0),
        }
        calls[self.op]()

    def timed(self, warmup: int, iterations: int) -> list[float]:
        """Seconds of each iteration on this rank, back to back after a barrier."""
        import torch
        import torch.distributed as dist

        self.sent.fill_(_SMALL)
        for _ in range(warmup):
            self.run()
        self.sent.fill_(_SMALL)
        dist.barrier()
        if self.device.type == "cpu":
            marks = [time.perf_counter()]
            for _ in range(iterations):
                self.run()
                marks.append(time.perf_counter())
            return [after - before for before, after in pairwise(marks)]
        torch.cuda.synchronize()
        cuda: Any = torch.cuda
        events = [cuda.Event(enable_timing=True) for _ in range(iterations + 1)]
        events[0].record()
        for event in events[1:]:
            self.run()
            event.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]

    def wrong_elements(self) -> int:
        """Run once on random data; the number of elements of this rank's result that are wrong.

        The data are small whole numbers, whose sums are exact in fp32 in any order, so the check is for equality.
        """
        import torch

        for start in range(0, len(self.sent), _CHUNK):
            stop = min(start + _CHUNK, len(self.sent))
            self.sent[start:stop] = self._data(self.rank, start, stop)
        self.run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        wrong = 0
        for start in range(0, len(self.received), _CHUNK):
            stop = min(start + _CHUNK, len(self.received))
            wrong += int((self.received[start:stop] != self._expected(start, stop)).sum())
        return wrong

    def _data(self, rank: int, start: int, stop: int) -> "torch.Tensor":
        """Elements [start, stop) of the data that a rank sends; every rank can compute those of every other."""
        import torch

        place = torch.arange(start, stop, device=self.device, dtype=torch.int64)
        # A linear congruential step of index and rank: cheap, reproducible, without a pattern that a shifted or missing
        # piece would repeat.
        mixed = (place * 6364136223846793005 + (rank + 1) * 1442695040888963407) >> 33
        return (mixed % (2 * _LARGEST + 1) - _LARGEST).to(torch.float32)

    def _expected(self, start: int, stop: int) -> "torch.Tensor":
        import torch

        if self.op == "broadcast":
            return self._data(0, start, stop)
        if self.op in {"all_reduce", "reduce_scatter"}:
            shift = len(self.received) * self.rank if self.op == "reduce_scatter" else 0
            parts = [self._data(rank, start + shift, stop + shift) for rank in range(self.ranks)]
            return torch.stack(parts).sum(0)
        # all_gather and all_to_all: piece k of the result comes from rank k.
        piece = len(self.received) // self.ranks
        whole = []
        for source in range(start // piece, (stop - 1) // piece + 1):
            low, high = max(start, source * piece), min(stop, (source + 1) * piece)
            shift = (self.rank - source) * piece if self.op == "all_to_all" else -source * piece
            whole.append(self._data(source, low + shift, high + shift))
        return torch.cat(whole)


if __name__ == "__main__":
    sys.exit(main())
