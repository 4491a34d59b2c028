"""Proof that FP8 ran: the GEMM kernels of each layer, and their time.

A module may be named FP8 and multiply in BF16. The profiler shows what ran: kernels on a GPU, the outermost operators
on a CPU (where `_scaled_mm` calls inner operators that must not be counted twice). The names of FP8 kernels differ by
device and library version, so the matcher is calibrated first: a known FP8 GEMM and a known BF16 one with the model's
shapes are profiled on the same device. If a CPU multiplies E4M3 values in fp32, the matcher recognises that operator:
it shows which layers are quantised, although no FP8 kernel ran.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.errors import RunbookError
from runner.probes.precision.linear import block_linears, quantise, scale_of
from runner.probes.precision.product import OPERATOR, fp8_product

if TYPE_CHECKING:
    import torch

_CPU_PRODUCTS = frozenset(
    {OPERATOR, "_scaled_mm", "_scaled_mm_v2", "mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"}
)
_RANGE = "layer "
_US = 1e-6


class ProofError(RunbookError):
    """FP8 kernels cannot be distinguished from others on this device."""


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel (on a CPU: of an outermost GEMM operator), and the layer that it ran in, or ""."""

    name: str
    seconds: float
    layer: str = ""


@dataclass(frozen=True)
class Matcher:
    """Distinguishes FP8 GEMMs from others by kernel name.

    Attributes:
        fp8, other: the names of known GEMMs, reduced by `rule`; no member is in both.
        rule: one of `RULES`: the part of a name that counts.
    """

    fp8: frozenset[str]
    other: frozenset[str]
    rule: str

    def is_fp8(self, name: str) -> bool | None:
        """Whether a kernel multiplies in FP8; None if it is not a GEMM that was seen in calibration."""
        key = RULES[self.rule](name)
        if key in self.fp8:
            return True
        return False if key in self.other else None


RULES: Mapping[str, Callable[[str], str]] = {
    # Tile sizes follow the first digit and change with the shape.
    "up to the first digit": lambda name: re.split(r"\d", name, maxsplit=1)[0],
    "without its numbers": lambda name: re.sub(r"\d+", "#", name),
    "whole": lambda name: name,
}


def matcher(fp8: Collection[str], other: Collection[str]) -> Matcher:
    """The loosest rule that separates these kernel names; names in both (a reduction, a copy) are ignored.

    Raises:
        ProofError: none does.
    """
    common = set(fp8) & set(other)
    for rule, key in RULES.items():
        ours, theirs = (frozenset(map(key, set(names) - common)) for names in (fp8, other))
        if ours and theirs and not ours & theirs:
            return Matcher(ours, theirs, rule)
    if not fp8:
        raise ProofError(
            "every known FP8 GEMM failed on this device; choose a model whose sides are multiples of 16"
        )
    raise ProofError(
        f"a known FP8 GEMM and a known BF16 one ran the same kernels ({', '.join(sorted(common)) or 'none'}):"
        " this device or this torch multiplies in another type than requested"
    )


def calibrated_matcher(model: Any, rows: int, device: str) -> Matcher:
    """Profile known GEMMs of the model's shapes, with `rows` tokens, on this device.

    Raises:
        ProofError: FP8 kernels cannot be distinguished from others.
    """
    import torch

    shapes = sorted({(layer.in_features, layer.out_features) for _, layer in block_linears(model)})
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for wide, tall in shapes:
        x = torch.randn(rows, wide, device=device, dtype=torch.bfloat16)
        weight = torch.randn(tall, wide, device=device, dtype=torch.bfloat16)
        for is_fp8, product in _known_products(x, weight):
            # A shape or kind of scale that this device does not support in FP8 is skipped.
            with suppress(RuntimeError) if is_fp8 else nullcontext():
                product()
                names[is_fp8] |= {kernel.name for kernel in _profiled(product, device)}
    return matcher(names[True], names[False])


def _known_products(x: "torch.Tensor", weight: "torch.Tensor") -> Iterator[tuple[bool, Callable[[], object]]]:
    import torch

    multiply = fp8_product(x.device.type).multiply
    tensorwise = scale_of(x), scale_of(weight)
    rowwise = x.abs().amax(1, keepdim=True).float() / 448, weight.abs().amax(1, keepdim=True).float() / 448
    for scale_a, scale_b in (tensorwise, rowwise):
        a, b = quantise(x, scale_a), quantise(weight, scale_b)
        right_scale = scale_b.t() if scale_b.dim() else scale_b
        yield True, partial(multiply, a, b.t(), scale_a, right_scale, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float16):
        yield False, partial(torch.nn.functional.linear, x.to(dtype), weight.to(dtype))


def kernels_of(model: Any, forward: Callable[[], object], device: str) -> list[Kernel]:
    """Every kernel (on a CPU: every GEMM) of one eager forward pass, with its layer."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        forward()
        with _ranges(model, wait):
            return _profiled(forward, device)


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


def _profiled(run: Callable[[], object], device: str) -> list[Kernel]:
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


@dataclass(frozen=True)
class Proof:
    """The GEMMs of one forward pass.

    Attributes:
        share: share of FP8 GEMMs, or of their replacement on a CPU, in the time of all recognised GEMMs.
        by_layer: whether each layer multiplied only in FP8; layers without a recognised GEMM are missing.
        by_kernel: seconds of each recognised kernel.
        rule: the rule by which names were matched.
    """

    share: float
    by_layer: Mapping[str, bool]
    by_kernel: Mapping[str, float]
    rule: str


def prove(kernels: Iterable[Kernel], told_by: Matcher) -> Proof:
    """Sum the recognised GEMMs by kernel and by layer."""
    seconds: dict[bool, float] = {True: 0.0, False: 0.0}
    by_kernel: dict[str, float] = defaultdict(float)
    by_layer: dict[str, bool] = {}
    for kernel in kernels:
        is_fp8 = told_by.is_fp8(kernel.name)
        if is_fp8 is None:
            continue
        seconds[is_fp8] += kernel.seconds
        by_kernel[kernel.name] += kernel.seconds
        if kernel.layer:
            by_layer[kernel.layer] = by_layer.get(kernel.layer, True) and is_fp8
    total = sum(seconds.values())
    return Proof(seconds[True] / total if total else 0.0, by_layer, dict(by_kernel), told_by.rule)


def census(model: Any, forward: Callable[[], object]) -> dict[str, int]:
    """Number of layers of each kind: module, type of its weight, types of its input and output."""
    import torch

    found: Counter[str] = Counter()
    hooks = []

    def hook(layer: Any, inputs: tuple["torch.Tensor"], output: "torch.Tensor") -> None:
        weight = layer.weight.data if isinstance(layer.weight, torch.nn.Parameter) else layer.weight
        kept = type(weight).__name__ if type(weight) is not torch.Tensor else _type(weight)
        found[f"{type(layer).__name__}: weight {kept}, {_type(inputs[0])} → {_type(output)}"] += 1

    for _, layer in block_linears(model):
        hooks.append(layer.register_forward_hook(hook))
    try:
        with torch.no_grad():
            forward()
    finally:
        for one in hooks:
            one.remove()
    return dict(found)


def _type(values: "torch.Tensor") -> str:
    return str(values.dtype).removeprefix("torch.")


def left_out(model: Any, proof: Proof, reasons: Mapping[str, str]) -> dict[str, str]:
    """Layers that did not multiply in FP8, by name, each with the reason."""
    left: dict[str, str] = {}
    for name, layer in block_linears(model):
        if proof.by_layer.get(name):
            continue
        ran = "no GEMM recognised" if name not in proof.by_layer else "not in FP8"
        left[name] = f"{ran}: {reasons.get(name) or _why(layer)}"
    return left


def _why(layer: Any) -> str:
    import torch

    if type(layer).__module__.startswith("transformer_engine"):
        return "outside autocast, where Transformer Engine's layers keep the weight's type"
    if type(layer) is torch.nn.Linear and type(layer.weight.data) is torch.Tensor:
        return "filtered out: it is still a plain Linear"
    return f"unrequested fallback in its {type(layer).__name__}"
