"""The question for `long_context_validation`: arguments converted to work; invalid input is refused. No torch."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from runner.errors import InputError
from runner.hardware.boards import BOARDS, Board, board_named
from runner.hardware.machine import Machine
from runner.models import ModelShape, model_shape
from runner.presets import PRESETS
from runner.probes.contract import NotApplicableError, preset_of
from runner.probes.tensor_parallel import check_degree
from runner.sizing import (
    NODE_GPUS,
    Footprint,
    Remedy,
    Work,
    board_budget,
    first_remedy,
    footprint,
    optimizer_bytes,
)
from runner.units import format_value

# Default lengths, without a GPU and with one: of a sweep, of a comparison of remedies, of training steps.
_LENGTHS = {
    "inference": ((512, 1024, 2048, 4096), (32768, 65536)),
    "comparison": ((512,), (32768,)),
    "training": ((256, 512, 1024), (2048, 4096, 8192)),
}
# Share of a device's free memory that a sweep may use.
_USABLE = 0.9
# Without a GPU ranks are processes on this host's cores.
_MOST_CPU_RANKS = 8
_KV_BYTES = {"fp8": 1, "bf16": 2, "fp32": 4}
# A CPU host computes in fp32: half precision there is emulated and slow.
_CPU_BYTES, _GPU_BYTES = 4, 2

# Inspects this host: `runner.hardware.machine.look`.
Looks = Callable[[], Machine]


@dataclass(frozen=True)
class Question:
    """The work for every length, and its device.

    Attributes:
        shape: of the model.
        lengths: in tokens, each once, in the given order.
        work: the work for the longest length.
        budget: bytes on each device; None for the device's memory.
        gpu: on a GPU, not on this host's processor.
        board: the board of a plan.
        devices: maximum number of devices that a remedy may use.
        remedy: the plan's first remedy, if requested and needed; it is part of `work`.
    """

    shape: ModelShape
    lengths: tuple[int, ...]
    work: Work
    budget: int | None
    gpu: bool = False
    board: Board | None = None
    devices: int = NODE_GPUS
    remedy: Remedy | None = None

    @property
    def model(self) -> str:
        """The model's name for a record: the last part of a folder's path."""
        return Path(self.shape.name).name

    @property
    def ranks(self) -> int:
        """Devices that share the model."""
        return self.work.tensor_parallel

    def at(self, tokens: int) -> Work:
        """The work at another length."""
        return replace(self.work, tokens=tokens)


def planned(arguments: argparse.Namespace, look: Looks) -> Question:
    """The question of `--plan`: for a board, or for this host.

    Raises:
        InputError: invalid input.
    """
    _check_numbers(arguments)
    for flag in ("find_limit", "compare_remedies", "apply_first_remedy", "snapshot"):
        if getattr(arguments, flag):
            raise InputError(
                f"--{flag.replace('_', '-')} is for a sweep; omit it, or omit --plan, which only predicts"
            )
    board = _board(arguments)
    if board is None and arguments.budget_gib is None and arguments.budget_share is None:
        raise InputError("--plan needs --board or --budget-gib to set the available memory")
    # A share refers to this host's memory use; a board computes in half precision.
    on_host = board is None and arguments.budget_gib is None
    element = _CPU_BYTES if on_host and not look().gpus else _GPU_BYTES
    shape = model_shape(arguments.model or preset_of(arguments))
    lengths = _lengths(arguments, gpu=element == _GPU_BYTES)
    work = _work(arguments, shape, lengths, element)
    budget = _budget(arguments, shape, work)
    if budget is not None:
        _check_budget(shape, work, budget)
    elif board is not None:
        budget = board_budget(board)
    devices = max(len(look().gpus), work.tensor_parallel) if on_host else NODE_GPUS
    return Question(shape, lengths, work, budget, board=board, devices=devices)


def swept(arguments: argparse.Namespace, look: Looks) -> Question:
    """The question of a sweep on this host.

    Raises:
        InputError: impossible input.
        NotApplicableError: this host cannot hold it, or has too few GPUs.
    """
    _check_numbers(arguments)
    if arguments.board:
        raise InputError("--board is for --plan; add --plan, or omit --board to measure this machine")
    machine = look()
    gpus, ranks = len(machine.gpus), arguments.tensor_parallel_gpus
    if ranks > 1 and arguments.mode == "training":
        raise InputError(
            "--mode training is measured on one device; --plan predicts it for --tensor-parallel-gpus above 1"
        )
    if ranks > (gpus or _MOST_CPU_RANKS):
        raise NotApplicableError(
            f"--tensor-parallel-gpus {ranks} needs {ranks} GPUs, this host has {gpus}; use --plan --board to predict"
        )
    memory = machine.gpus[0].memory_bytes if gpus else psutil.virtual_memory().available // ranks
    element = _GPU_BYTES if gpus else _CPU_BYTES
    shape = _shape(arguments, memory, element)
    check_degree(shape, ranks)
    lengths = _lengths(arguments, gpu=bool(gpus))
    work = _work(arguments, shape, lengths, element)
    budget = _budget(arguments, shape, work)
    if budget is not None:
        _check_budget(shape, work, budget)
    elif arguments.find_limit or arguments.apply_first_remedy:
        if not gpus:
            raise InputError(
                "--find-limit and --apply-first-remedy need --budget-gib or --budget-share on a host without a GPU"
            )
        budget = int(memory * _USABLE)
    remedy = None
    if arguments.apply_first_remedy and budget is not None and footprint(shape, work).total > budget:
        remedy = first_remedy(shape, work, budget, gpus=gpus or ranks)
        if remedy is None:
            raise InputError(
                f"no change makes {max(lengths)} tokens fit into {format_value(budget, 'B')}; raise the budget or"
                " reduce the work"
            )
        work = remedy.work
    _check_host(shape, work, budget, memory, gpu=bool(gpus))
    return Question(shape, lengths, work, budget, gpu=bool(gpus), remedy=remedy)


def describe_parts(found: Footprint) -> str:
    """A footprint in words: the peak and its nonzero parts."""
    parts = {
        "weights": found.weights,
        "KV cache": found.kv_cache,
        "optimizer": found.optimizer,
        "gradients": found.gradients,
        "activations": found.activations,
        "logits": found.logits,
    }
    said = ", ".join(f"{name} {format_value(value, 'B')}" for name, value in parts.items() if value)
    return f"{format_value(found.total, 'B')} predicted at {found.moment} ({said})"


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, value in (
        ("--budget-gib", arguments.budget_gib),
        ("--budget-share", arguments.budget_share),
    ):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value:g}: must be above zero")
    for name, value in (
        ("--batch-size", arguments.batch_size),
        ("--tensor-parallel-gpus", arguments.tensor_parallel_gpus),
        ("--chunk", arguments.chunk),
    ):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: must be a whole number, 1 or more")
    if arguments.mode == "training":
        for name, given in (
            ("--chunk", arguments.chunk is not None),
            ("--logits last", arguments.logits == "last"),
            ("--kv-dtype", arguments.kv_dtype != "auto"),
        ):
            if given:
                raise InputError(
                    f"{name} is for --mode inference: a training step has no cache and needs all logits"
                )
    elif arguments.optimizer is not None:
        raise InputError("--optimizer is for --mode training")


def _board(arguments: argparse.Namespace) -> Board | None:
    if not arguments.board:
        return None
    board = board_named(arguments.board)
    if board is None:
        known = ", ".join(one.name for one in BOARDS)
        raise InputError(
            f"--board {arguments.board}: unknown board; use {known}, or --budget-gib for another board"
        )
    return board


def _lengths(arguments: argparse.Namespace, *, gpu: bool) -> tuple[int, ...]:
    """Each length once, in the given order."""
    kind = "comparison" if arguments.mode == "inference" and arguments.compare_remedies else arguments.mode
    return tuple(dict.fromkeys(arguments.sequence_lengths or _LENGTHS[kind][gpu]))


def _work(arguments: argparse.Namespace, shape: ModelShape, lengths: Sequence[int], element: int) -> Work:
    training = arguments.mode == "training"
    for length in lengths:
        if not 1 + training <= length <= shape.max_positions:
            raise InputError(
                f"--sequence-lengths {length}: {shape.name} accepts {1 + training} to {shape.max_positions} tokens"
            )
    split = {"heads": shape.heads, "columns of the MLP": shape.ff}
    for part, count in split.items():
        if count % arguments.tensor_parallel_gpus:
            raise InputError(
                f"--tensor-parallel-gpus {arguments.tensor_parallel_gpus} does not divide {count} {part}"
                f" of {shape.name}"
            )
    return Work(
        tokens=max(lengths),
        batch=arguments.batch_size,
        weight_bytes=element,
        kv_bytes=_KV_BYTES.get(arguments.kv_dtype, element),
        all_logits=arguments.logits == "all",
        chunk=arguments.chunk,
        tensor_parallel=arguments.tensor_parallel_gpus,
        attention=arguments.attention,
        checkpointing=arguments.activation_checkpointing,
        training=(arguments.optimizer or "adamw") if training else None,
    )


def _budget(arguments: argparse.Namespace, shape: ModelShape, work: Work) -> int | None:
    if arguments.budget_gib is not None:
        return int(arguments.budget_gib * 2**30)
    if arguments.budget_share is None:
        return None
    naive = replace(work, all_logits=True, chunk=None, kv_bytes=work.weight_bytes, checkpointing="none")
    return int(arguments.budget_share * footprint(shape, naive).total)


def _check_budget(shape: ModelShape, work: Work, budget: int) -> None:
    fixed = footprint(shape, work).weights + optimizer_bytes(shape, work)
    if budget < fixed:
        what = "weights and optimizer state" if work.training else "weights"
        over = f" over {work.tensor_parallel} devices" if work.tensor_parallel > 1 else ""
        raise InputError(
            f"the budget of {format_value(budget, 'B')} is below the {what} of {shape.name}{over},"
            f" {format_value(fixed, 'B')}; raise the budget, or choose a smaller --model"
        )


def _check_host(shape: ModelShape, work: Work, budget: int | None, memory: int, *, gpu: bool) -> None:
    """Refuse work that would exhaust this host's memory.

    On a GPU, out of memory is a result. A CPU host must hold all of it, or the budget plus the allocation that exceeds
    it.
    """
    found = footprint(shape, work)
    need = found.weights + found.optimizer if gpu else found.total
    if budget is not None:
        need = min(need, budget + max(found.activations, found.logits))
    if need > memory * _USABLE:
        raise NotApplicableError(
            f"{shape.name} would need {format_value(need, 'B')} at {work.tokens} tokens, this host has"
            f" {format_value(memory, 'B')}; choose a smaller --model, --batch-size or --sequence-lengths"
        )


def _shape(arguments: argparse.Namespace, memory: int, element: int) -> ModelShape:
    """The requested model, or the largest, up to the preset's, whose weights need at most half of the memory."""
    if arguments.model:
        return model_shape(arguments.model)
    preset = preset_of(arguments)
    for name in reversed(PRESETS[: PRESETS.index(preset) + 1]):
        shape = model_shape(name)
        if shape.parameters * element <= memory * _USABLE / 2 * arguments.tensor_parallel_gpus:
            return shape
    raise NotApplicableError(
        f"even the tiny model does not fit into {format_value(memory, 'B')} of free memory; "
        "free some, or use another host"
    )
