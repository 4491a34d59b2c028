"""Counts CUDA graph launches. PyTorch drops CUDA graphs without an error, so only the driver's calls show it.

A step that replays its graph makes one `cudaGraphLaunch` and almost no kernel launches; a step without its graph
launches every kernel separately; a step that captures again, as after a change of shape, pays for that each time.

With CUDA before 12.6, a profiler that starts after a graph was captured can hang in its replay. So replays are first
counted without a profiler, by torch's own calls.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest import mock

_REPLAY = re.compile(r"cu(da)?GraphLaunch")
_CAPTURE = re.compile(r"cu(da)?StreamBeginCapture")
_PLAIN = re.compile(r"cu(da)?Launch(Cooperative)?Kernel")


@dataclass(frozen=True)
class Launches:
    """Calls of the CUDA runtime and driver: graphs captured, graphs replayed, kernels launched separately.

    Captures and separate launches are None if only torch's replays were counted.
    """

    captures: int | None
    replays: int
    plain: int | None


def count(calls: Iterable[str]) -> Launches | None:
    """Count the calls by name, as CUPTI spells them; None if none of them launched anything.

    A step on a GPU launches something, so no launch means that the profiler saw nothing: unknown, not zero.
    """
    captures = replays = plain = 0
    for call in calls:
        captures += _CAPTURE.match(call) is not None
        replays += _REPLAY.match(call) is not None
        plain += _PLAIN.match(call) is not None
    return Launches(captures, replays, plain) if replays + plain else None


def replays_of(work: Callable[[], object]) -> int:
    """Run the work once and count the CUDA graphs that torch replays meanwhile."""
    import torch

    replay, counted = torch.cuda.CUDAGraph.replay, 0

    def counting(graph: Any) -> None:
        nonlocal counted
        counted += 1
        replay(graph)

    with mock.patch.object(torch.cuda.CUDAGraph, "replay", counting):
        work()
    return counted


def launches_of(work: Callable[[], object]) -> Launches | None:
    """Run the work once under the profiler and count what it launched on this process's GPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        work()
        torch.cuda.synchronize()
    return count(event.name for event in profiler.events() or ())
