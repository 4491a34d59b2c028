"""What ran on a device, from torch's profiler: kernels, the layer that each ran in, and CUDA graph launches.

PyTorch drops CUDA graphs without an error, so only the driver's calls show it. A step that replays its graph makes one
`cudaGraphLaunch` and almost no kernel launches; a step without its graph launches every kernel separately; a step that
captures again, as after a change of shape, pays for that each time. With CUDA before 12.6, a profiler that starts after
a graph was captured can hang in its replay. So replays are first counted without a profiler, by torch's own calls.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.kit.budget import wait_for
from runner.kit.precision.product import OPERATOR

_CPU_PRODUCTS = frozenset(
    {OPERATOR, "_scaled_mm", "_scaled_mm_v2", "mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"}
)
_RANGE = "layer "
_US = 1e-6
_REPLAY = re.compile(r"cu(da)?GraphLaunch")
_CAPTURE = re.compile(r"cu(da)?StreamBeginCapture")
_PLAIN = re.compile(r"cu(da)?Launch(Cooperative)?Kernel")

Layers = Iterable[tuple[str, Any]]
"""Modules by name, as `runner.kit.precision.linear.block_linears` gives them."""


def profile_of(run: Callable[[], object], device: str) -> Any:
    """Torch's profiler after a call on `cuda` or `cpu`: its `events()`, and its `export_chrome_trace(path)`."""
    from torch.profiler import ProfilerActivity, profile

    # Kineto logs every start and stop to stderr unless its log level is above all messages.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        wait_for(device)
    return profiler


def callers(event: Any) -> Iterator[Any]:
    """The operators and ranges that a CPU event ran in, from the inside out."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel (on a CPU: of an outermost GEMM operator), and the layer that it ran in, or ""."""

    name: str
    seconds: float
    layer: str = ""


def kernels_of(layers: Layers, forward: Callable[[], object], device: str) -> list[Kernel]:
    """Every kernel (on a CPU: every GEMM) of one eager forward pass, with the layer that it ran in."""
    import torch

    open_ranges: list[Any] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait_for(device)
            open_ranges.append(torch.profiler.record_function(_RANGE + name))
            open_ranges[-1].__enter__()

        return hook

    def leave(_: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait_for(device)
            open_ranges.pop().__exit__(None, None, None)

        return hook

    with torch.no_grad():
        forward()
        # Each layer runs inside its own named range, with nothing else on the device.
        with hooked(layers, leave, before=enter):
            return profiled(forward, device)


@contextmanager
def hooked(
    layers: Layers, after: Callable[[str], Callable[..., None]], before: Callable[[str], Any] | None = None
) -> Iterator[None]:
    """While open, every layer calls the forward hooks that these functions make from its name."""
    hooks = []
    for name, layer in layers:
        if before is not None:
            hooks.append(layer.register_forward_pre_hook(before(name)))
        hooks.append(layer.register_forward_hook(after(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def profiled(run: Callable[[], object], device: str) -> list[Kernel]:
    """Every kernel (on a CPU: every GEMM) of a call. Empty on a GPU whose profiler shows no kernels."""
    events = list(profile_of(run, device).events())
    on_cpu = [event for event in events if event.device_type.name == "CPU"]
    ranges = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(_RANGE))
        for event in on_cpu
        if event.name.startswith(_RANGE)
    ]
    if device == "cuda":
        ran = [
            event
            for event in events
            if event.device_type.name == "CUDA"
            and not event.name.startswith((_RANGE, "Memcpy", "Memset", "ProfilerStep"))
        ]
    else:
        ran = [event for event in on_cpu if _is_product(event) and not any(map(_is_product, callers(event)))]
    return [
        Kernel(
            event.name.removeprefix("aten::"),
            (event.time_range.end - event.time_range.start) * _US,
            _layer_at(event.time_range.start, ranges),
        )
        for event in ran
    ]


def _is_product(event: Any) -> bool:
    return event.name.removeprefix("aten::") in _CPU_PRODUCTS


def _layer_at(moment: float, ranges: Iterable[tuple[float, float, str]]) -> str:
    return next((name for start, end, name in ranges if start <= moment <= end), "")


@dataclass(frozen=True)
class Launches:
    """Calls of the CUDA runtime and driver: graphs captured, graphs replayed, kernels launched separately.

    Captures and separate launches are None if only torch's replays were counted.
    """

    captures: int | None
    replays: int
    plain: int | None


def count_launches(calls: Iterable[str]) -> Launches | None:
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
    from unittest import mock

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
    wait_for("cuda")
    return count_launches(event.name for event in profile_of(work, "cuda").events() or ())
