"""One model in several precisions on one device, all with the same input tokens."""

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.kit.precision.choice import layer_names
from runner.kit.precision.linear import (
    COMPUTE_CAPABILITY,
    block_linears,
    convert,
    replace_layer,
    weight_scales,
    why_not_fp8,
)
from runner.kit.precision.product import fp8_product
from runner.kit.precision.scales import Scales, read_scales
from runner.kit.transformer import build_model, random_tokens
from runner.sizing.models import ModelShape, model_shape

if TYPE_CHECKING:
    import torch

TORCHAO, ENGINE = "torchao, dynamic row-wise", "Transformer Engine, its default recipe"


class UnavailableError(Exception):
    """This mode cannot run on this host; the message says why."""


@dataclass(frozen=True)
class PrecisionArm:
    """A model in one precision.

    Attributes:
        module: maps tokens [batch, tokens] to hidden states [batch, tokens, hidden]; the part that may be compiled.
        model: the transformers model inside.
        left: layers that were not converted to the precision, with the reason.
        implementation: the implementation of the FP8 layers; None without FP8 layers.
    """

    mode: str
    module: Any
    model: Any
    left: Mapping[str, str]
    implementation: str | None

    def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Hidden states [batch, tokens, hidden] of a prefill of `tokens` [batch, tokens]; synchronizes the device."""
        import torch

        with torch.no_grad():
            hidden: torch.Tensor = self.module(tokens)
        if tokens.device.type == "cuda":
            torch.cuda.synchronize()
        return hidden


def build_arm(
    mode: str, shape: ModelShape, device: str, scales: Scales | None = None, *, check: bool = True
) -> PrecisionArm:
    """Build the model in a mode; all modes start from the same bf16 weights.

    `fp8` is torchao's dynamic row-wise FP8 on a GPU. With calibrated scales, and on a CPU (which torchao does not
    support), it is this project's own layer.

    Args:
        mode: `fp16`, `bf16`, `fp8` or `fp8_te`.
        shape: the model.
        device: `cuda` or `cpu`.
        scales: calibrated input scales for `fp8`; None for dynamic ones.
        check: whether to compare the scales with the weights, which reads their values.

    Raises:
        UnavailableError: this device or installation does not support it.
        InputError: the scales are stale.
    """
    import torch

    why_not = unavailable(mode, device, static=scales is not None)
    if why_not:
        raise UnavailableError(why_not)
    model = build_model(shape, torch.bfloat16, device)
    left: dict[str, str] = {}
    inside: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    implementation = None
    if mode == "fp16":
        _cast_weights(model, torch.float16)
    elif mode == "fp8" and device == "cuda" and scales is None:
        left, implementation = _torchao(model), TORCHAO
    elif mode == "fp8":
        if scales is not None and check:
            scales.check_weights(weight_scales(model))
        left = convert(model, scales.inputs if scales else None)
        implementation = f"{fp8_product(device).name}, per tensor"
    elif mode == "fp8_te":
        inside, implementation = _transformer_engine(model), ENGINE
    return PrecisionArm(mode, _hidden()(model.model, inside), model, left, implementation)


def _cast_weights(model: Any, dtype: "torch.dtype") -> None:
    """Convert the parameters only: `Module.to` would round the rotary frequencies, which every mode keeps in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def build_for_guard(
    *, mode: str, model: str, device: str, batch_size: int, tokens: int, scales: str | None
) -> tuple[Any, tuple[Any, ...]]:
    """An arm's module and its tokens, for a compile guard's child; same as `build_arm` with these arguments."""
    import torch

    torch.set_grad_enabled(False)
    shape = model_shape(model)
    read = None if scales is None else read_scales(Path(scales), shape, layer_names(shape))
    # The guard builds with fake tensors, which have no values; the caller's own model is checked.
    arm = build_arm(mode, shape, device, read, check=False)
    return arm.module, (random_tokens(shape, batch_size, tokens, device),)


def unavailable(mode: str, device: str, *, static: bool = False) -> str | None:
    """Why a mode cannot run on this host, or None. `static`: with calibrated scales, which do not use torchao."""
    import torch

    if mode.startswith("fp8") and device == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < COMPUTE_CAPABILITY:
            needed, found = (".".join(map(str, one)) for one in (COMPUTE_CAPABILITY, capability))
            return f"FP8 needs compute capability {needed}, this GPU has {found}"
    if mode == "fp8" and device == "cuda" and not static:
        return _why_no_torchao()
    if mode == "fp8_te":
        return "Transformer Engine runs on GPUs only" if device == "cpu" else _why_no_engine()
    return None


def _why_no_torchao() -> str | None:
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow  # noqa: F401 - checks that it is installed and complete
    except (ImportError, OSError) as error:
        return f"torchao is not usable ({str(error).partition(chr(10))[0]}): install the `fp8` extra, or use --scales"
    return None


def _why_no_engine() -> str | None:
    try:
        import transformer_engine.pytorch  # noqa: F401 - checks that it is installed and loads
    except (ImportError, OSError) as error:
        return f"Transformer Engine is not usable: {str(error).partition(chr(10))[0]}"
    return None


def _torchao(model: Any) -> dict[str, str]:
    """Quantise the blocks' linear layers with torchao, in place; returns layers that were not, with the reason."""
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_
    from torchao.quantization.quantize_.common import KernelPreference

    left = {name: reason for name, layer in block_linears(model) if (reason := why_not_fp8(name, layer))}
    chosen = {id(layer) for name, layer in block_linears(model) if name not in left}
    # The proof is calibrated on torch's own kernels. Fast accumulation is what this project's own layer uses, and what
    # inference engines use. torchao's Inductor settings would apply to the whole process and change the other
    # precisions too.
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(),
        mm_config=Float8MMConfig(use_fast_accum=True),
        kernel_preference=KernelPreference.TORCH,
        set_inductor_config=False,
    )
    quantize_(model, config, filter_fn=lambda module, _: id(module) in chosen)
    return left


def _transformer_engine(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Replace the blocks' linear layers by Transformer Engine's; returns the context in which they compute in FP8."""
    import torch
    import transformer_engine.pytorch as engine

    for name, linear in list(block_linears(model)):
        theirs = engine.Linear(
            linear.in_features, linear.out_features, bias=False, params_dtype=torch.bfloat16
        )
        with torch.no_grad():
            theirs.weight.copy_(linear.weight)
        replace_layer(model, name, theirs)
    # Newer versions have `autocast` in place of `fp8_autocast`. No recipe can be created inside a compiled region.
    recipe = _default_recipe()
    if hasattr(engine, "autocast"):
        return lambda: engine.autocast(enabled=True, recipe=recipe)
    return lambda: engine.fp8_autocast(enabled=True, fp8_recipe=recipe)


def _default_recipe() -> Any:
    """Transformer Engine's recipe for this GPU: delayed scaling up to Hopper, MXFP8 on Blackwell. None if unknown."""
    for name in ("quantization", "fp8"):
        with contextlib.suppress(ImportError, AttributeError):
            module = importlib.import_module(f"transformer_engine.pytorch.{name}")
            return module.get_default_fp8_recipe()
    return None


def why_not_compiled(mode: str) -> str | None:
    """Why `torch.compile` cannot take a mode on this host; None if it may."""
    if mode == "fp8_te" and type(_default_recipe()).__name__ == "DelayedScaling":
        return "not compiled: Transformer Engine refuses delayed scaling, its recipe for this GPU, in torch.compile"
    return None


@cache
def _hidden() -> Any:
    import torch
    from torch import nn

    class Hidden(nn.Module):
        """A transformer without its output matrix, run inside a context."""

        def __init__(self, model: nn.Module, inside: Callable[[], AbstractContextManager[Any]]) -> None:
            super().__init__()
            self.model, self.inside = model, inside

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            with self.inside():
                hidden: torch.Tensor = self.model(tokens, use_cache=False).last_hidden_state
            return hidden

    return Hidden


def fp32_reference(shape: ModelShape, device: str, tokens: "torch.Tensor") -> "torch.Tensor":
    """Hidden states of the same weights computed in fp32; the model is freed before this returns."""
    import torch

    model = build_model(shape, torch.bfloat16, device).float()
    return PrecisionArm("fp32", _hidden()(model.model, contextlib.nullcontext), model, {}, None).forward(
        tokens
    )


def library_versions() -> dict[str, str]:
    """Versions of the installed FP8 libraries."""
    found = {}
    for name in ("torch", "triton", "torchao", "transformer_engine", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
