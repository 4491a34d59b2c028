"""A small training step on one rank: data, compute, collectives on two groups. Runs in a rank.

Every collective is called from a line of its own, so that the flight recorder tells them apart.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runner.kit.drill.faults import Act, FaultInjector
from runner.kit.drill.injection import places_of

if TYPE_CHECKING:
    import torch

# Elements. The gradient's sum must be cheap, so that waiting is waiting.
_GRADIENT, _NORM, _BATCH = 4096, 16, 64
# Side of the square matrices of one unit of compute: about 1 ms on a core, 0.1 ms on a GPU.
_SIDE_CPU, _SIDE_GPU = 256, 4096
_PASSES, _UNITS_A_PASS = 6, 6


@dataclass
class Stopwatch:
    """Seconds of a step by what they were spent on: wall clock on a CPU, events of the stream on a GPU."""

    device: "torch.device"
    _marks: list[tuple[str, Any]] = field(default_factory=list)

    def lap(self, spent_on: str) -> None:
        """The time since the last lap was spent on this."""
        import torch

        if self.device.type == "cpu":
            self._marks.append((spent_on, time.perf_counter()))
            return
        cuda: Any = torch.cuda
        event = cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((spent_on, event))

    def seconds(self) -> dict[str, float]:
        """The sum of each, after all of them have ended; the first lap only starts the watch."""
        import torch

        if self.device.type != "cpu":
            torch.cuda.synchronize()
        total: dict[str, float] = {}
        for (_, before), (spent_on, after) in zip(self._marks, self._marks[1:], strict=False):
            taken = after - before if self.device.type == "cpu" else before.elapsed_time(after) / 1e3
            total[spent_on] = total.get(spent_on, 0.0) + taken
        return total


class Training:
    """The model, its data and its groups. The group must have been initialised.

    Args:
        device: where it computes.
        timeout_s: of the second group.
    """

    def __init__(self, device: "torch.device", timeout_s: float) -> None:
        import torch
        import torch.distributed as dist

        self.device, self.rank, self.ranks = device, dist.get_rank(), dist.get_world_size()
        self.second = dist.new_group(list(range(self.ranks)), timeout=timedelta(seconds=timeout_s))
        side = _SIDE_CPU if device.type == "cpu" else _SIDE_GPU
        kind = torch.float32 if device.type == "cpu" else torch.bfloat16
        self._left = torch.rand(side, side, device=device, dtype=kind)
        self._product = torch.empty_like(self._left)
        self._norm = torch.ones(_NORM, device=device)
        self._units = 1
        self._stop = False
        self._calls: Mapping[str, Callable[[torch.Tensor, Act], None]] = {
            "reduce_gradient": self._reduce_gradient,
            "gather_metrics": self._gather_metrics,
            "reduce_norm": self._reduce_norm,
            "meet": self._meet,
        }

    def unit_seconds(self) -> float:
        """Seconds of one unit of compute: the fastest of some passes."""
        import torch

        found = []
        for _ in range(_PASSES):
            if self.device.type != "cpu":
                torch.cuda.synchronize()
            began = time.perf_counter()
            self._compute(_UNITS_A_PASS)
            if self.device.type != "cpu":
                torch.cuda.synchronize()
            found.append((time.perf_counter() - began) / _UNITS_A_PASS)
        return min(found)

    def prepare(self, units: int, timeout_s: float) -> None:
        """Set the compute of a step, in units, and the timeout of the collectives that follow."""
        from torch.distributed.distributed_c10d import _set_pg_timeout

        self._units = units
        for group in (None, self.second):
            _set_pg_timeout(timedelta(seconds=timeout_s), group)

    def steps(
        self, count: int, injector: FaultInjector, asked_to_stop: Callable[[], bool]
    ) -> Iterator[dict[str, float]]:
        """Run steps until there were `count`, or until a rank was asked to stop: all ranks stop after the same step.

        Args:
            count: the most steps.
            injector: the fault of this rank, or none.
            asked_to_stop: whether this rank was asked to stop.

        Yields:
            Seconds of `data`, `compute` and `wait`, and the elements that are not finite: `own`, in this rank's
            gradient before the reduction, and `summed`, after it.
        """
        self._injector, self._asked_to_stop, self._stop = injector, asked_to_stop, False
        batches = iter(self._loader(count))
        for step in range(count):
            yield self._step(step, batches)
            if self._stop:
                return

    def _loader(self, count: int) -> Any:
        import torch
        from torch.utils.data import DataLoader, Dataset

        injector = self._injector

        class Tokens(Dataset[torch.Tensor]):
            """Made as they are asked for."""

            def __len__(self) -> int:
                return count * _BATCH

            def __getitem__(self, place: int) -> torch.Tensor:
                if place % _BATCH == 0:
                    injector.loads(place // _BATCH)
                return torch.full((_NORM,), float(place % 7))

        return DataLoader(Tokens(), batch_size=_BATCH)

    def _step(self, step: int, batches: Iterator["torch.Tensor"]) -> dict[str, float]:
        import torch

        watch = Stopwatch(self.device)
        watch.lap("start")
        batch = next(batches).to(self.device)
        watch.lap("data")
        self._compute(self._units)
        gradient = torch.full((_GRADIENT,), float(batch.mean()), device=self.device)
        if self._injector.adds_nan(step):
            gradient[step] = float("nan")
        own = _not_finite(gradient)
        watch.lap("compute")
        for place in places_of(step):
            act = self._injector.enters(step, place)
            if act is not Act.SKIP:
                self._calls[place](gradient, act)
            watch.lap("wait")
        return {**watch.seconds(), "own": own, "summed": _not_finite(gradient)}

    def _compute(self, units: int) -> None:
        import torch

        for _ in range(units):
            torch.mm(self._left, self._left, out=self._product)

    def _reduce_gradient(self, gradient: "torch.Tensor", act: Act) -> None:
        import torch
        import torch.distributed as dist

        if act is Act.OTHER_OP:
            dist.all_gather([torch.empty_like(gradient) for _ in range(self.ranks)], gradient)
        else:
            # Of another size from the same line, as it comes with an uneven batch.
            larger = act is Act.OTHER_SIZE
            dist.all_reduce(torch.cat((gradient, gradient)) if larger else gradient)

    def _gather_metrics(self, gradient: "torch.Tensor", act: Act) -> None:
        import torch
        import torch.distributed as dist

        own = torch.stack([gradient[0], torch.tensor(float(self._asked_to_stop()), device=self.device)])
        if act is Act.OTHER_OP:
            dist.all_reduce(own, group=self.second)
            return
        everyone = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(everyone, own, group=self.second)
        self._stop = any(bool(one[1] > 0) for one in everyone)

    def _reduce_norm(self, _: "torch.Tensor", act: Act) -> None:
        import torch
        import torch.distributed as dist

        if act is Act.OTHER_OP:
            dist.all_gather(
                [torch.empty_like(self._norm) for _ in range(self.ranks)], self._norm, group=self.second
            )
        else:
            larger = act is Act.OTHER_SIZE
            dist.all_reduce(torch.cat((self._norm, self._norm)) if larger else self._norm, group=self.second)

    def _meet(self, _: "torch.Tensor", act: Act) -> None:
        import torch
        import torch.distributed as dist

        if act is Act.OTHER_OP:
            dist.all_reduce(torch.ones(1, device=self.device))
        else:
            dist.barrier()


def _not_finite(values: "torch.Tensor") -> int:
    import torch

    return int((~torch.isfinite(values)).sum())
