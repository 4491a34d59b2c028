"""The inputs of a model's layers (calibration), and the accuracy of their FP8 output against fp32."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.kit.budget import Budget
from runner.kit.precision.linear import E4M3_MAX, E4M3_TINIEST, block_linears, e4m3_scale, signal_to_noise
from runner.kit.profiling import hooked

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Quality:
    """FP8 accuracy of one layer.

    Attributes:
        signal_to_noise: dB, of the layer's FP8 output against fp32 on the same input.
        saturated: share of its inputs that exceed the range of its scale.
        underflow: share of its nonzero inputs that its scale rounds to zero.
    """

    signal_to_noise: float
    saturated: float
    underflow: float


def magnitudes(
    model: Any, batches: Sequence["torch.Tensor"], percentile: float | None, allowance: Budget
) -> dict[str, list[float]]:
    """History of the input of every linear layer in the blocks: one magnitude per batch [batch, tokens].

    Args:
        model: the model in its own precision.
        batches: token ids; at least one batch.
        percentile: of the magnitudes, above 0 and up to 100; None for the largest.
        allowance: after the first batch, a batch that would not end within it is not begun.
    """
    import torch

    history: dict[str, list[float]] = defaultdict(list)

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple["torch.Tensor"], __: Any) -> None:
            values = inputs[0].detach().abs().float().flatten()
            if percentile is None:
                found = values.max()
            else:
                rank = max(1, min(values.numel(), round(values.numel() * percentile / 100)))
                found = values.kthvalue(rank).values
            # An input of zeros has no magnitude; it gets the smallest valid scale.
            history[name].append(max(float(found), E4M3_MAX * 1e-12))

        return hook

    with hooked(block_linears(model), watch), torch.no_grad():
        longest = 0.0
        for number, batch in enumerate(batches):
            if number and not allowance.has(longest):
                break
            began = time.monotonic()
            model.model(batch, use_cache=False)
            longest = max(longest, time.monotonic() - began)
    return dict(history)


def quality(source: Any, fp8: Any, tokens: "torch.Tensor") -> dict[str, Quality]:
    """Compare each FP8 layer with its counterpart in `source`, on that layer's input in `source`.

    Each layer is compared separately: an error in one does not affect the next.
    """
    import torch

    layers = {name: layer for name, layer in block_linears(fp8) if layer.weight.dtype == torch.float8_e4m3fn}
    found: dict[str, Quality] = {}

    def compare(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple["torch.Tensor"], _: Any) -> None:
            if name not in layers:
                return
            x, ours = inputs[0], layers[name]
            exact = x.float() @ layer.weight.float().t()
            scale = float(e4m3_scale(x) if ours.input_scale is None else ours.input_scale)
            magnitude = x.float().abs()
            # E4M3 rounds half to even, so up to half of its smallest number becomes zero.
            vanishes = (magnitude <= E4M3_TINIEST / 2 * scale) & (magnitude > 0)
            found[name] = Quality(
                # Above 120 dB fp32 itself is the limit.
                signal_to_noise(ours(x).float(), exact, most=120.0),
                float((magnitude > E4M3_MAX * scale * 1.0001).float().mean()),
                float(vanishes.sum() / (magnitude > 0).sum().clamp(min=1)),
            )

        return hook

    with hooked(block_linears(source), compare), torch.no_grad():
        source.model(tokens, use_cache=False)
    return found


def inaccurate(found: Mapping[str, Quality], floor_db: float) -> dict[str, Quality]:
    """The layers below a signal-to-noise ratio; NaN counts as below."""
    return {name: one for name, one in found.items() if not one.signal_to_noise >= floor_db}
