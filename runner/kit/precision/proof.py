"""Proof that FP8 ran: the GEMM kernels of each layer, and their time.

A module may be named FP8 and multiply in BF16. The profiler shows what ran: kernels on a GPU, the outermost operators
on a CPU (where `_scaled_mm` calls inner operators that must not be counted twice). The names of FP8 kernels differ by
device and library version, so the matcher is calibrated first: known FP8 GEMMs and known BF16 ones with the model's
shapes are profiled on the same device. If a CPU multiplies E4M3 values in fp32, the matcher recognises that operator:
it shows which layers are quantised, although no FP8 kernel ran.

What the profiler does not show, or what is not recognised, is unknown, with a reason. It is never taken for BF16.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.kit.precision.kernel_names import Matcher, ProofError, matcher
from runner.kit.precision.linear import block_linears, e4m3_scale, quantise
from runner.kit.precision.product import fp8_product
from runner.kit.profiling import Kernel, hooked, kernels_of, profiled

if TYPE_CHECKING:
    import torch

_NAMED = 3


def calibrated_matcher(model: Any, rows: int, device: str) -> Matcher:
    """Profile known GEMMs of the model's shapes, with `rows` tokens, on this device.

    Raises:
        ProofError: FP8 kernels cannot be distinguished from others, or the profiler shows no kernels.
    """
    import torch

    shapes = sorted({(layer.in_features, layer.out_features) for _, layer in block_linears(model)})
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for wide, tall in shapes:
        x = torch.randn(rows, wide, device=device, dtype=torch.bfloat16)
        weight = torch.randn(tall, wide, device=device, dtype=torch.bfloat16)
        for is_fp8, product in known_products(x, weight):
            # A shape or kind of scale that this device does not support in FP8 is skipped.
            with suppress(RuntimeError, ValueError) if is_fp8 else nullcontext():
                product()
                ran = profiled(product, device)
                # The others are helpers (a split-K reduction, a memset): they say nothing of the type.
                names[is_fp8] |= {max(ran, key=lambda kernel: kernel.seconds).name} if ran else set()
    if not names[False]:
        raise ProofError(f"a known BF16 GEMM: {_nothing_seen(device)}")
    return matcher(names[True], names[False])


def _nothing_seen(device: str) -> str:
    if device == "cpu":
        return "the profiler showed no GEMM operator"
    return "the profiler showed no GPU kernel; end other profilers (nsys, DCGM) or allow this user to profile"


def known_products(
    x: "torch.Tensor", weight: "torch.Tensor"
) -> Iterator[tuple[bool, Callable[[], "torch.Tensor"]]]:
    """Known GEMMs of x [rows, inner] with weight [columns, inner], both bf16, each with whether it is in FP8.

    In FP8: one scale per tensor, one per row and, on a GPU, MXFP8's (Blackwell only). Else: bf16 and fp16.
    """
    import torch

    multiply = fp8_product(x.device.type).multiply
    tensorwise = e4m3_scale(x), e4m3_scale(weight)
    rowwise = x.abs().amax(1, keepdim=True).float() / 448, weight.abs().amax(1, keepdim=True).float() / 448
    for scale_a, scale_b in (tensorwise, rowwise):
        a, b = quantise(x, scale_a), quantise(weight, scale_b)
        right_scale = scale_b.t() if scale_b.dim() else scale_b
        yield True, partial(multiply, a, b.t(), scale_a, right_scale, torch.bfloat16)
    if x.device.type != "cpu":
        scales = [_mx_scales(values) for values in (x, weight)]
        yield (
            True,
            lambda: torch._scaled_mm(  # noqa: SLF001 - torch's only FP8 GEMM has a private name
                a, b.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16
            ),
        )
    for dtype in (torch.bfloat16, torch.float16):
        yield False, partial(torch.nn.functional.linear, x.to(dtype), weight.to(dtype))


def _mx_scales(values: "torch.Tensor") -> "torch.Tensor":
    """Scales of 1 for every 32 numbers of a row, padded to blocks of 128 rows × 4 scales as cuBLASLt stores them."""
    import torch

    rows, inner = values.shape
    padded = 128 * math.ceil(rows / 128) * 4 * math.ceil(inner / 128)
    return torch.ones(padded, device=values.device).to(torch.float8_e8m0fnu)


@dataclass(frozen=True)
class Proof:
    """The GEMMs of one forward pass.

    Attributes:
        share: share of FP8 GEMMs, or of their replacement on a CPU, in the time of all recognised GEMMs; None if none
            was recognised.
        by_layer: whether each layer multiplied only in FP8; layers without a recognised GEMM are missing.
        by_kernel: seconds of each recognised kernel.
        rule: the rule by which names were matched; None without a matcher.
        unknown: why there is no share; None if there is one.
    """

    share: float | None
    by_layer: Mapping[str, bool]
    by_kernel: Mapping[str, float]
    rule: str | None
    unknown: str | None = None


def proof_of(model: Any, forward: Callable[[], object], rows: int, device: str) -> Proof:
    """Calibrate on this device, and prove what one eager forward pass of the model ran.

    Args:
        model: a transformers causal model.
        forward: one forward pass of it.
        rows: tokens of that pass.
        device: `cuda` or `cpu`.
    """
    try:
        told_by = calibrated_matcher(model, rows, device)
    except ProofError as error:
        return Proof(None, {}, {}, None, str(error))
    kernels = kernels_of(block_linears(model), forward, device)
    return prove(kernels, told_by) if kernels else Proof(None, {}, {}, told_by.rule, _nothing_seen(device))


def prove(kernels: Iterable[Kernel], told_by: Matcher) -> Proof:
    """Sum the recognised GEMMs by kernel and by layer."""
    seconds: dict[bool, float] = {True: 0.0, False: 0.0}
    by_kernel: dict[str, float] = defaultdict(float)
    by_layer: dict[str, bool] = {}
    others: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        is_fp8 = told_by.is_fp8(kernel.name)
        if is_fp8 is None:
            others[kernel.name] += kernel.seconds
            continue
        seconds[is_fp8] += kernel.seconds
        by_kernel[kernel.name] += kernel.seconds
        if kernel.layer:
            by_layer[kernel.layer] = by_layer.get(kernel.layer, True) and is_fp8
    total = sum(seconds.values())
    if not total:
        named = ", ".join(sorted(others, key=lambda name: -others[name])[:_NAMED]) or "none"
        return Proof(
            None, by_layer, {}, told_by.rule, f"no kernel was recognised as a GEMM; longest: {named}"
        )
    return Proof(seconds[True] / total, by_layer, dict(by_kernel), told_by.rule)


def census(model: Any, forward: Callable[[], object]) -> dict[str, int]:
    """Number of layers of each kind: module, type of its weight, types of its input and output."""
    import torch

    found: Counter[str] = Counter()

    def note(layer: Any, inputs: tuple["torch.Tensor"], output: "torch.Tensor") -> None:
        weight = layer.weight.data if isinstance(layer.weight, torch.nn.Parameter) else layer.weight
        kept = type(weight).__name__ if type(weight) is not torch.Tensor else _type(weight)
        found[f"{type(layer).__name__}: weight {kept}, {_type(inputs[0])} → {_type(output)}"] += 1

    with hooked(block_linears(model), lambda _: note), torch.no_grad():
        forward()
    return dict(found)


def _type(values: "torch.Tensor") -> str:
    return str(values.dtype).removeprefix("torch.")


def layers_left_out(model: Any, proof: Proof, reasons: Mapping[str, str]) -> dict[str, str]:
    """Layers that did not multiply in FP8, by name, each with the reason."""
    left: dict[str, str] = {}
    for name, layer in block_linears(model):
        if proof.by_layer.get(name):
            continue
        reason = reasons.get(name) or _why(layer)
        if name in proof.by_layer:
            left[name] = f"not in FP8: {reason or f'unrequested fallback in its {type(layer).__name__}'}"
        elif reason and not _of_engine(layer):
            left[name] = f"no GEMM recognised: {reason}"
    return left


def unproved_layers(model: Any, proof: Proof, left: Mapping[str, str]) -> list[str]:
    """Layers of which it is unknown whether they multiplied in FP8: no GEMM was recognised in them."""
    return [name for name, _ in block_linears(model) if name not in proof.by_layer and name not in left]


def _of_engine(layer: Any) -> bool:
    return type(layer).__module__.startswith("transformer_engine")


def _why(layer: Any) -> str | None:
    import torch

    if _of_engine(layer):
        return "outside autocast, where Transformer Engine's layers keep the weight's type"
    if type(layer) is torch.nn.Linear and type(layer.weight.data) is torch.Tensor:
        return "filtered out: it is still a plain Linear"
    return None
