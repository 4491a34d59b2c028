"""Linear layers that multiply in FP8 (E4M3), and the conversion of a model's blocks to them.

Weights are quantised once with one scale per tensor, activations at every call: with the scale of the current batch
(dynamic) or with a calibrated one (static). The GEMM is that of `runner.kit.precision.product`: FP8 tensor cores on
a GPU; on a CPU, higher precision with the same quantised numbers, so a CPU shows the accuracy but not the speed.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from runner.kit.precision.product import fp8_product

if TYPE_CHECKING:
    import torch

# Largest finite E4M3 number (OCP FP8), and the smallest above zero.
E4M3_MAX = 448.0
E4M3_TINIEST = 2.0**-9
# The FP8 tensor cores take matrices whose sides are multiples of 16.
MULTIPLE = 16
COMPUTE_CAPABILITY = (8, 9)


def block_linears(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every linear layer in the model's blocks, the layers of "the model runs in FP8"."""
    from torch import nn

    for name, module in model.model.layers.named_modules():
        theirs = type(module).__module__.startswith("transformer_engine") and hasattr(module, "out_features")
        if theirs or isinstance(module, nn.Linear | _fp8_linear()):
            yield f"layers.{name}", module


def why_not_fp8(name: str, linear: Any, leave_out: Collection[str] = ()) -> str | None:
    """Why a linear layer cannot run in FP8, or None."""
    if name in leave_out:
        return "excluded by the layer list"
    if linear.bias is not None:
        return "it has a bias"
    if linear.in_features % MULTIPLE or linear.out_features % MULTIPLE:
        return f"its shape {linear.out_features}×{linear.in_features} is not a multiple of {MULTIPLE}"
    return None


def convert(
    model: Any, static: Mapping[str, float] | None = None, leave_out: Collection[str] = ()
) -> dict[str, str]:
    """Replace the linear layers of the model's blocks by FP8 layers.

    Args:
        model: a transformers causal model; changed in place.
        static: scale of each layer's input by name, or None for dynamic scales.
        leave_out: names of layers to keep.

    Returns:
        The layers that were kept, each with the reason.
    """
    left: dict[str, str] = {}
    for name, linear in list(block_linears(model)):
        reason = why_not_fp8(name, linear, leave_out)
        if reason:
            left[name] = reason
            continue
        replace_layer(model, name, _fp8_linear()(linear, None if static is None else static[name]))
    return left


def replace_layer(model: Any, name: str, layer: Any) -> None:
    """Put another layer in the place of one that `block_linears` names."""
    parent, _, last = name.removeprefix("layers.").rpartition(".")
    setattr(model.model.layers.get_submodule(parent), last, layer)


def set_input_scales(model: Any, static: Mapping[str, float] | None) -> None:
    """Set the input scales of the model's FP8 layers, in place; None for dynamic scales."""
    import torch

    for name, layer in block_linears(model):
        if isinstance(layer, _fp8_linear()):
            layer.input_scale = (
                None if static is None else torch.tensor(static[name], device=layer.weight.device)
            )


def weight_scales(model: Any) -> dict[str, float]:
    """Scale of every linear layer's weight, by name; also serves as a fingerprint of the weights."""
    return {name: float(e4m3_scale(layer.weight)) for name, layer in block_linears(model)}


def quantise(values: "torch.Tensor", scale: "torch.Tensor") -> "torch.Tensor":
    """`values / scale` in E4M3, saturating."""
    import torch

    # In fp32: rounding to bf16 first would round twice.
    return (values.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def e4m3_scale(values: "torch.Tensor") -> "torch.Tensor":
    """The fp32 scale that maps the largest magnitude to E4M3's largest number."""
    return (values.abs().amax().float() / E4M3_MAX).clamp(min=1e-12)


def signal_to_noise(found: "torch.Tensor", exact: "torch.Tensor", most: float = 150.0) -> float:
    """10 log₁₀(Σ exact² ÷ Σ (found − exact)²), dB; at most `most`, so that it is finite for equal tensors.

    Computed in the tensors' type. For an `exact` of zeros it is NaN or −∞.
    """
    import torch

    signal = exact.pow(2).sum()
    noise = (found - exact).pow(2).sum().clamp(min=signal * 10 ** (-most / 10))
    return float(10 * torch.log10(signal / noise))


@cache
def _fp8_linear() -> Any:
    import torch
    from torch import nn

    class Fp8Linear(nn.Module):
        """`x @ weight.T` with both in E4M3 and the result in x's type. Has no bias."""

        def __init__(self, linear: nn.Linear, input_scale: float | None) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            weight = linear.weight.detach()
            # Never trained and never cast: plain tensors, which `Module.to` does not convert.
            self.weight_scale = e4m3_scale(weight)
            self.weight = quantise(weight, self.weight_scale)
            self.input_scale = (
                None if input_scale is None else torch.tensor(input_scale, device=weight.device)
            )
            self._multiply = fp8_product(weight.device.type).multiply

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.reshape(-1, self.in_features)
            scale = e4m3_scale(rows) if self.input_scale is None else self.input_scale
            product = self._multiply(
                quantise(rows, scale), self.weight.t(), scale, self.weight_scale, x.dtype
            )
            return product.reshape(*x.shape[:-1], self.out_features)

    return Fp8Linear
