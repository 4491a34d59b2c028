"""Model, device and number of tokens, chosen in the same way by both FP8 probes."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from runner.base.errors import InputError, RunbookError
from runner.base.units import format_value
from runner.kit.precision.scales import Scales, read_scales
from runner.kit.probe import NotApplicableError
from runner.kit.usable import usable_gpus
from runner.sizing.models import ModelShape, fitting_model
from runner.sizing.presets import default_preset

if TYPE_CHECKING:
    import torch

# Tokens of a prefill that saturates the device: its GEMMs are compute-bound.
_TOKENS = {"cuda": 4096, "cpu": 128}
# Share of the memory for activations and workspace.
_FOR_WEIGHTS = 0.8
# Bytes of a weight in each mode; Transformer Engine keeps an FP8 copy in addition to its bf16 weights.
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "fp8_te": 3}


@dataclass(frozen=True)
class Prefill:
    """A prefill of `tokens` tokens in each of `batch_size` sequences. `name` is the model's name without its folder."""

    shape: ModelShape
    device: str
    batch_size: int
    tokens: int

    @property
    def name(self) -> str:
        return Path(self.shape.name).name


def choose_work(arguments: argparse.Namespace, modes: Collection[str]) -> Prefill:
    """The requested work, if the copies of the model for all modes fit together.

    Raises:
        InputError: an invalid number, or an unknown model.
        NotApplicableError: it does not fit on this device, or CUDA does not start yet.
        RunbookError: torch cannot use the GPUs of this host.
    """
    gpus = usable_gpus()
    device = "cuda" if gpus else "cpu"
    memory = free_bytes(device)
    tokens = _TOKENS[device] if arguments.tokens is None else arguments.tokens
    if arguments.batch_size < 1 or tokens < 1:
        raise InputError("--batch-size and --tokens must be 1 or more")
    # The fp32 reference runs first and is freed before the modes are built.
    element = max(_BYTES["fp32"], sum(_BYTES[mode] for mode in set(modes)))
    preset = arguments.preset or default_preset(gpus)

    def fits(shape: ModelShape) -> bool:
        if tokens > shape.max_positions:
            raise InputError(f"--tokens {tokens}: {shape.name} accepts at most {shape.max_positions}")
        return shape.parameters * element <= memory * _FOR_WEIGHTS

    shape, fitting = fitting_model(arguments.model, preset, fits)
    if fitting:
        return Prefill(shape, device, arguments.batch_size, tokens)
    need = format_value(shape.parameters * element, "B")
    raise NotApplicableError(
        f"{shape.name} in {len(set(modes))} precisions needs {need} for weights; the {device} has"
        f" {format_value(memory, 'B')} free; choose a smaller --model or fewer --modes"
    )


def free_bytes(device: str) -> int:
    """Free memory of the GPU that torch uses first, or of the host.

    Raises:
        RunbookError: CUDA does not start on that GPU.
    """
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    import torch

    try:
        return int(torch.cuda.mem_get_info(0)[0])
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise RunbookError(
            f"CUDA does not start on the first visible GPU ({first}); check it with nvidia-smi"
        ) from error


def layer_names(shape: ModelShape) -> tuple[str, ...]:
    """Names of the linear layers in the model's blocks; does not allocate the model."""
    import torch

    from runner.kit.precision.linear import block_linears
    from runner.kit.transformer import build_model

    return tuple(name for name, _ in block_linears(build_model(shape, torch.bfloat16, "meta")))


def scales_from(arguments: argparse.Namespace, shape: ModelShape) -> Scales | None:
    """The scales of `--scales`, checked against the model; None for dynamic scales.

    Raises:
        InputError: the file is not for this model.
    """
    return None if arguments.scales is None else read_scales(arguments.scales, shape, layer_names(shape))


def sample_tokens(work: Prefill, seed: int = 0) -> "torch.Tensor":
    """Random tokens [batch, tokens] on the device; the same for the same seed."""
    from runner.kit.transformer import random_tokens

    return random_tokens(work.shape, work.batch_size, work.tokens, work.device, seed)
