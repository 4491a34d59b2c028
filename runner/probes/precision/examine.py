"""What each layer of a model really computed with, how good its FP8 numbers are, and how long its products took."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.probes.precision.linear import E4M3_MAX, E4M3_TINIEST, block_linears, scale_of

if TYPE_CHECKING:
    import torch

FP8_PRODUCT = "_scaled_mm"
_PRODUCTS = frozenset({FP8_PRODUCT, "mm", "addmm", "bmm", "baddbmm"})
_OUTSIDE = ""


@dataclass(frozen=True)
class Product:
    """Matrix products of one layer in one forward: the operator's name, the type of its operands, seconds in all."""

    operator: str
    dtype: str
    seconds: float


@dataclass(frozen=True)
class Quality:
    """FP8 numbers of one layer.

    Attributes:
        signal_to_noise: dB, of the layer's FP8 output against fp32 from the same input.
        saturated: share of its inputs beyond what its scale can hold.
        underflow: share of its nonzero inputs that its scale turns into zero.
    """

    signal_to_noise: float
    saturated: float
    underflow: float


def calibrate(model: Any, batches: Sequence["torch.Tensor"]) -> dict[str, float]:
    """Input scale of every linear layer in the blocks: the largest magnitude over all batches [batch, tokens]."""
    import torch

    largest: dict[str, float] = defaultdict(float)

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple["torch.Tensor"]) -> None:
            largest[name] = max(largest[name], float(scale_of(inputs[0])))

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in block_linears(model)]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(largest)


def quality(source: Any, fp8: Any, tokens: "torch.Tensor") -> dict[str, Quality]:
    """Compare each FP8 layer with the layer of `source` that it stands for, on that layer's own input in `source`.

    Every layer is judged by itself: an error in one does not run on into the next.
    """
    import torch

    layers = {name: layer for name, layer in block_linears(fp8) if layer.weight.dtype == torch.float8_e4m3fn}
    found: dict[str, Quality] = {}

    def compare(name: str) -> Any:
        def hook(layer: Any, inputs: tuple["torch.Tensor"], _: Any) -> None:
            x, ours = inputs[0], layers[name]
            exact = x.float() @ layer.weight.float().t()
            noise = (ours(x).float() - exact).pow(2).mean()
            scale = float(scale_of(x) if ours.input_scale is None else ours.input_scale)
            magnitude = x.float().abs()
            found[name] = Quality(
                # Beyond 120 dB fp32 itself is at its end; the floor keeps a perfect layer finite.
                float(10 * torch.log10(exact.pow(2).mean() / noise.clamp(min=1e-12 * exact.pow(2).mean()))),
                float((magnitude > E4M3_MAX * scale * 1.0001).float().mean()),
                float(((magnitude < E4M3_TINIEST / 2 * scale) & (magnitude > 0)).float().mean()),
            )

        return hook

    hooks = [
        layer.register_forward_hook(compare(name)) for name, layer in block_linears(source) if name in layers
    ]
    try:
        with torch.no_grad():
            source(tokens, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def products(model: Any, tokens: "torch.Tensor") -> dict[str, Product]:
    """What every linear layer of the blocks multiplied with in one eager forward, caught as torch dispatches it.

    A `_scaled_mm` either runs in FP8 or raises: what is dispatched is proof, whatever the module calls itself. The
    key "" holds the products outside the blocks (the output matrix).
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    within = [_OUTSIDE]
    seconds: dict[str, float] = defaultdict(float)
    kinds: dict[str, tuple[str, str]] = {}

    def now() -> float:
        if tokens.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves this base untyped
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operator = func.overloadpacket.__name__
            if operator not in _PRODUCTS:
                return func(*args, **(kwargs or {}))
            began = now()
            result = func(*args, **(kwargs or {}))
            seconds[within[-1]] += now() - began
            operands = [one for one in args if isinstance(one, torch.Tensor)]
            kinds[within[-1]] = (operator, str(operands[-1].dtype).removeprefix("torch."))
            return result

    with _named(model, within), torch.no_grad():
        model(tokens, use_cache=False, logits_to_keep=1)
        seconds.clear()
        with Watch():  # type: ignore[no-untyped-call] # as above
            model(tokens, use_cache=False, logits_to_keep=1)
    return {name: Product(*kinds[name], seconds[name]) for name in kinds}


@contextmanager
def _named(model: Any, within: list[str]) -> Iterator[None]:
    """While open, `within[-1]` is the name of the layer that is computing."""
    hooks = []
    for name, layer in block_linears(model):
        hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: within.append(name)))
        hooks.append(layer.register_forward_hook(lambda *_: within.pop() and None))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def fp8_share(found: Mapping[str, Product]) -> float:
    """Share of the time of all matrix products that FP8 ones took."""
    total = sum(product.seconds for product in found.values())
    fp8 = sum(product.seconds for product in found.values() if product.operator == FP8_PRODUCT)
    return fp8 / total if total else 0.0
