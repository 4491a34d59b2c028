"""One model in several precisions on one device, each ready to read the same tokens."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.models import ModelShape
from runner.probes.precision.linear import COMPUTE_CAPABILITY, convert
from runner.probes.transformer import build_model

if TYPE_CHECKING:
    import torch

# Bytes of a weight in each mode; the model's embeddings stay at two.
WEIGHT_BYTES = {"fp16": 2, "bf16": 2, "fp8": 1, "fp8_te": 3}
MODES = tuple(WEIGHT_BYTES)


class UnavailableError(Exception):
    """This mode cannot run here; the message says why."""


@dataclass(frozen=True)
class Arm:
    """A model in one precision. `left` names layers that did not take it, with the reason."""

    mode: str
    model: Any
    left: Mapping[str, str]
    inside: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Hidden states [batch, tokens, hidden] of a prefill of `tokens` [batch, tokens], waited for."""
        import torch

        with torch.no_grad(), self.inside():
            hidden: torch.Tensor = self.model.model(tokens, use_cache=False).last_hidden_state
        if tokens.device.type == "cuda":
            torch.cuda.synchronize()
        return hidden


def build_arm(
    mode: str,
    shape: ModelShape,
    device: str,
    *,
    static: Mapping[str, float] | None = None,
    compile_mode: str | None = None,
) -> Arm:
    """Build the model in a mode, every mode from the same bf16 weights.

    Args:
        mode: one of `MODES`.
        shape: the model.
        device: `cuda` or `cpu`.
        static: calibrated input scales for `fp8`; None for dynamic ones.
        compile_mode: mode of `torch.compile` for each block, or None for eager.

    Raises:
        UnavailableError: this device or installation cannot do it.
    """
    import torch

    why_not = unavailable(mode, device)
    if why_not:
        raise UnavailableError(why_not)
    model = build_model(shape, torch.bfloat16, device)
    left: dict[str, str] = {}
    inside: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    if mode == "fp16":
        model = model.to(torch.float16)
    elif mode == "fp8":
        left = convert(model, static)
    elif mode == "fp8_te":
        inside = _transformer_engine(model)
    if compile_mode is not None:
        # Blocks are alike: one compile serves all of them.
        for block in model.model.layers:
            block.compile(mode=compile_mode)
    return Arm(mode, model, left, inside)


def unavailable(mode: str, device: str) -> str | None:
    """Why a mode cannot run here, or None."""
    import torch

    if mode.startswith("fp8") and device == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < COMPUTE_CAPABILITY:
            needed, found = (".".join(map(str, one)) for one in (COMPUTE_CAPABILITY, capability))
            return f"FP8 needs compute capability {needed}, this GPU has {found}"
    if mode == "fp8_te":
        if device == "cpu":
            return "Transformer Engine runs on GPUs only"
        try:
            import transformer_engine.pytorch  # noqa: F401 - whether it is there, and loads
        except (ImportError, OSError) as error:
            return f"Transformer Engine is not usable: {str(error).partition(chr(10))[0]}"
    return None


def _transformer_engine(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Put Transformer Engine's linear layers into the blocks; the context in which they compute in FP8."""
    import torch
    import transformer_engine.pytorch as engine

    from runner.probes.precision.linear import block_linears

    for name, linear in list(block_linears(model)):
        parent, _, last = name.removeprefix("layers.").rpartition(".")
        theirs = engine.Linear(
            linear.in_features, linear.out_features, bias=False, params_dtype=torch.bfloat16
        )
        with torch.no_grad():
            theirs.weight.copy_(linear.weight)
        setattr(model.model.layers.get_submodule(parent), last, theirs)
    return lambda: engine.fp8_autocast(enabled=True)


def reference(shape: ModelShape, device: str, tokens: "torch.Tensor") -> "torch.Tensor":
    """Hidden states of the same weights computed in fp32; the model is gone when this returns."""
    import torch

    return Arm("fp32", build_model(shape, torch.bfloat16, device).float(), {}).forward(tokens)


def signal_to_noise(found: "torch.Tensor", exact: "torch.Tensor") -> float:
    """10 log₁₀(Σ exact² ÷ Σ (found − exact)²), dB; at most 150."""
    import torch

    signal = exact.double().pow(2).sum()
    noise = (found.double() - exact.double()).pow(2).sum().clamp(min=signal * 1e-15)
    return float(10 * torch.log10(signal / noise))
