"""What a device can hold: the model, the lengths and the budget that follow from its memory. No torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.base.errors import InputError
from runner.base.units import format_value
from runner.kit.probe import NotApplicableError, preset_of
from runner.sizing.limits import GPU_OVERHEAD_BYTES, footprint, longest
from runner.sizing.models import ModelShape, fitting_model, model_shape
from runner.sizing.work import ModelWork, optimizer_bytes, weight_bytes

# Default lengths, without a GPU and with one: of a sweep, of a comparison of remedies, of training steps.
_LENGTHS = {
    "inference": ((512, 1024, 2048, 4096), (8192, 16384, 32768, 65536)),
    "comparison": ((512,), (32768,)),
    "training": ((256, 512, 1024), (2048, 4096, 8192)),
}
# Training steps on a device that cannot hold the longest default one: parts of the longest step that it can hold. Far
# below it, gradients have the peak instead of activations, and a fit needs three lengths with one kind of peak.
_TRAINED = (0.75, 0.875, 1.0)
_TRAINED_STEP = 64
# Share of a device's free memory that a sweep may use.
_USABLE = 0.9
_KV_BYTES = {"fp8": 1, "bf16": 2, "fp32": 4}
# A CPU host computes in fp32: half precision there is emulated and slow.
_CPU_BYTES, _GPU_BYTES = 4, 2


@dataclass(frozen=True)
class SweepDevice:
    """One device of a sweep, or one that a plan assumes.

    Attributes:
        gpu: a GPU, not this host's processor.
        memory: in bytes; None if the budget alone counts.
    """

    gpu: bool
    memory: int | None = None

    @property
    def element(self) -> int:
        """Bytes of a weight."""
        return _GPU_BYTES if self.gpu else _CPU_BYTES

    @property
    def usable(self) -> int | None:
        """Bytes that a sweep may use."""
        return None if self.memory is None else int(self.memory * _USABLE)


def chosen_shape(arguments: argparse.Namespace, device: SweepDevice) -> ModelShape:
    """The requested model, or the largest, up to the preset's, that the device can hold with its work.

    Its weights need at most half of the usable memory, and the whole peak fits: at the longest requested or default
    length, or at the shortest default one of a GPU's training steps, which are as long as it allows. If no peak fits,
    it is the smallest model: out of memory is a result.

    Raises:
        NotApplicableError: even the smallest model's weights do not fit.
    """
    if arguments.model or device.usable is None:
        return model_shape(arguments.model or preset_of(arguments))
    usable, given = device.usable, arguments.sequence_lengths
    among = given or _LENGTHS[_kind(arguments)][device.gpu]
    tokens = min(among) if device.gpu and arguments.mode == "training" and not given else max(among)
    work = _work_at(arguments, tokens, device.element)

    def loads(shape: ModelShape) -> bool:
        return weight_bytes(shape, work) <= usable / 2

    shape, _ = fitting_model(
        None, preset_of(arguments), lambda shape: loads(shape) and footprint(shape, work).total <= usable
    )
    if not loads(shape):
        raise NotApplicableError(
            f"even the tiny model does not fit into {format_value(device.memory, 'B')} of free memory; "
            "free some, or use another host"
        )
    return shape


def lengths_of(arguments: argparse.Namespace, shape: ModelShape, device: SweepDevice) -> tuple[int, ...]:
    """Each requested length once, in the given order; without a request, those that suit the device.

    Raises:
        InputError: a length that the model does not accept.
    """
    lengths = tuple(dict.fromkeys(arguments.sequence_lengths or _default_lengths(arguments, shape, device)))
    shortest = 2 if arguments.mode == "training" else 1
    for length in lengths:
        if not shortest <= length <= shape.max_positions:
            raise InputError(
                f"--sequence-lengths {length}: {shape.name} accepts {shortest} to {shape.max_positions} tokens"
            )
    return lengths


def longest_work(
    arguments: argparse.Namespace, shape: ModelShape, lengths: Sequence[int], device: SweepDevice
) -> ModelWork:
    """The work at the longest length.

    Raises:
        InputError: the number of GPUs does not divide the model.
    """
    split = {"heads": shape.heads, "columns of the MLP": shape.ff}
    for part, count in split.items():
        if count % arguments.tensor_parallel_gpus:
            raise InputError(
                f"--tensor-parallel-gpus {arguments.tensor_parallel_gpus} does not divide {count} {part}"
                f" of {shape.name}"
            )
    return _work_at(arguments, max(lengths), device.element)


def budget_of(
    arguments: argparse.Namespace, shape: ModelShape, work: ModelWork, device: SweepDevice
) -> tuple[int | None, int | None]:
    """Bytes that each device may use, and the bytes asked for if a GPU has less; None without a budget.

    Raises:
        InputError: the budget is below the weights and the optimizer state.
    """
    asked = _asked_budget(arguments, shape, work)
    if asked is None:
        return None, None
    most = device.memory - GPU_OVERHEAD_BYTES if device.gpu and device.memory is not None else asked
    budget = min(asked, most)
    fixed = weight_bytes(shape, work) + optimizer_bytes(shape, work)
    if budget < fixed:
        what = "weights and optimizer state" if work.training else "weights"
        over = f" over {work.tensor_parallel} devices" if work.tensor_parallel > 1 else ""
        raise InputError(
            f"the budget of {format_value(budget, 'B')} is below the {what} of {shape.name}{over},"
            f" {format_value(fixed, 'B')}; raise the budget, or choose a smaller --model"
        )
    return budget, asked if asked > most else None


def check_device(shape: ModelShape, work: ModelWork, budget: int | None, device: SweepDevice) -> None:
    """Refuse work that would exhaust this host's memory.

    On a GPU, out of memory is a result. A CPU host must hold all of it, or the budget plus the allocation that exceeds
    it.

    Raises:
        NotApplicableError: it would.
    """
    found = footprint(shape, work)
    need = found.weights + found.optimizer if device.gpu else found.total
    if budget is not None:
        need = min(need, budget + max(found.activations, found.logits))
    if device.usable is not None and need > device.usable:
        raise NotApplicableError(
            f"{shape.name} would need {format_value(need, 'B')} at {work.tokens} tokens, this host has"
            f" {format_value(device.memory, 'B')}; choose a smaller --model, --batch-size or --sequence-lengths"
        )


def _kind(arguments: argparse.Namespace) -> str:
    compared = arguments.mode == "inference" and arguments.compare_remedies
    return "comparison" if compared else str(arguments.mode)


def _default_lengths(
    arguments: argparse.Namespace, shape: ModelShape, device: SweepDevice
) -> tuple[int, ...]:
    lengths = _LENGTHS[_kind(arguments)][device.gpu]
    if arguments.mode != "training" or not device.gpu or device.usable is None:
        return lengths
    work = _work_at(arguments, max(lengths), device.element)
    most = longest(shape, work, device.usable)
    if most >= max(lengths) or most < _TRAINED_STEP / _TRAINED[0]:
        return lengths
    return tuple(int(most * part) // _TRAINED_STEP * _TRAINED_STEP for part in _TRAINED)


def _work_at(arguments: argparse.Namespace, tokens: int, element: int) -> ModelWork:
    return ModelWork(
        tokens=tokens,
        batch=arguments.batch_size,
        weight_bytes=element,
        kv_bytes=_KV_BYTES.get(arguments.kv_dtype, element),
        all_logits=arguments.logits == "all",
        chunk=arguments.chunk,
        tensor_parallel=arguments.tensor_parallel_gpus,
        attention=arguments.attention,
        checkpointing=arguments.activation_checkpointing,
        training=(arguments.optimizer or "adamw") if arguments.mode == "training" else None,
    )


def _asked_budget(arguments: argparse.Namespace, shape: ModelShape, work: ModelWork) -> int | None:
    if arguments.budget_gib is not None:
        return int(arguments.budget_gib * 2**30)
    if arguments.budget_share is None:
        return None
    naive = replace(work, all_logits=True, chunk=None, kv_bytes=work.weight_bytes, checkpointing="none")
    return int(arguments.budget_share * footprint(shape, naive).total)
