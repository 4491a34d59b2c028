"""The kernels that ran, from torch's profiler, each with the layer that it ran in."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.kit.precision.linear import block_linears
from runner.kit.precision.product import OPERATOR

_CPU_PRODUCTS = frozenset(
    {OPERATOR, "_scaled_mm", "_scaled_mm_v2", "mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"}
)
_RANGE = "layer "
_US = 1e-6


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel (on a CPU: of an outermost GEMM operator), and the layer that it ran in, or ""."""

    name: str
    seconds: float
    layer: str = ""


def kernels_of(model: Any, forward: Callable[[], object], device: str) -> list[Kernel]:
    """Every kernel (on a CPU: every GEMM) of one eager forward pass, with its layer."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        forward()
        with _ranges(model, wait):
            return profiled(forward, device)


@contextmanager
def _ranges(model: Any, wait: Callable[[], None]) -> Iterator[None]:
    """While open, each layer runs inside its own named range, with nothing else on the device."""
    import torch

    open_ranges: list[Any] = []
    hooks = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait()
            open_ranges.append(torch.profiler.record_function(_RANGE + name))
            open_ranges[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        wait()
        open_ranges.pop().__exit__(None, None, None)

    for name, layer in block_linears(model):
        hooks += [layer.register_forward_pre_hook(enter(name)), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def profiled(run: Callable[[], object], device: str) -> list[Kernel]:
    """Every kernel (on a CPU: every GEMM) of a call. Empty on a GPU whose profiler shows no kernels."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    # Kineto logs every start and stop to stderr unless its log level is above all messages.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as seen:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    events = list(seen.events())
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
        ran = [event for event in on_cpu if _is_product(event) and not _within_product(event)]
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


def _within_product(event: Any) -> bool:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        if _is_product(event):
            return True
    return False


def _layer_at(moment: float, ranges: Iterable[tuple[float, float, str]]) -> str:
    return next((name for start, end, name in ranges if start <= moment <= end), "")
