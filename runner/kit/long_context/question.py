"""The question for `long_context_validation`: arguments converted to work; invalid input is refused. No torch."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from runner.base.errors import InputError
from runner.base.units import format_value
from runner.hardware.boards import BOARDS, Board, board_named
from runner.hardware.machine import Machine
from runner.kit.long_context.fitting import (
    SweepDevice,
    budget_of,
    check_device,
    chosen_shape,
    lengths_of,
    longest_work,
)
from runner.kit.options import value_of
from runner.kit.probe import NotApplicableError
from runner.kit.tensor_parallel import check_degree
from runner.sizing.limits import board_budget, footprint
from runner.sizing.models import ModelShape
from runner.sizing.remedies import NODE_GPUS, MemoryRemedy, first_remedy
from runner.sizing.work import Footprint, ModelWork

# Without a GPU ranks are processes on this host's cores.
_MOST_CPU_RANKS = 8
# Far more than any device has or any run needs, and small enough that all byte counts fit into 64 bits.
_MOST_GIB, _MOST_SHARES, _MOST_SEQUENCES = 1_000_000, 1_000, 65_536

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
        beyond_device: bytes of the budget asked for, if the GPU has less; `budget` is then what the GPU has.
        on_host: the memory is this host's; False for that of a named board or an amount that was given.
    """

    shape: ModelShape
    lengths: tuple[int, ...]
    work: ModelWork
    budget: int | None
    gpu: bool = False
    board: Board | None = None
    devices: int = NODE_GPUS
    remedy: MemoryRemedy | None = None
    beyond_device: int | None = None
    on_host: bool = True

    @property
    def model(self) -> str:
        """The model's name for a record: the last part of a folder's path."""
        return Path(self.shape.name).name

    @property
    def ranks(self) -> int:
        """Devices that share the model."""
        return self.work.tensor_parallel

    def at(self, tokens: int) -> ModelWork:
        """The work at another length."""
        return replace(self.work, tokens=tokens)


def planned(arguments: argparse.Namespace, look: Looks) -> Question:
    """The question of `--plan`: for a board, or for this host.

    Raises:
        InputError: invalid input.
    """
    _check_numbers(arguments)
    for flag in ("--find-limit", "--compare-remedies", "--apply-first-remedy", "--snapshot"):
        if value_of(arguments, flag):
            raise InputError(f"{flag} is for a sweep; omit it, or omit --plan, which only predicts")
    board = _board(arguments)
    if board is None and arguments.budget_gib is None and arguments.budget_share is None:
        raise InputError("--plan needs --board or --budget-gib to set the available memory")
    # A share refers to this host's memory use; a board computes in half precision.
    on_host = board is None and arguments.budget_gib is None
    device = _device(arguments, look()) if on_host else SweepDevice(gpu=True)
    shape = chosen_shape(arguments, device)
    lengths = lengths_of(arguments, shape, device)
    work = longest_work(arguments, shape, lengths, device)
    budget, beyond = budget_of(arguments, shape, work, device)
    if budget is None and board is not None:
        budget = board_budget(board)
    devices = max(len(look().gpus), work.tensor_parallel) if on_host else NODE_GPUS
    return Question(
        shape, lengths, work, budget, board=board, devices=devices, beyond_device=beyond, on_host=on_host
    )


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
    device = _device(arguments, machine)
    shape = chosen_shape(arguments, device)
    check_degree(shape, ranks)
    lengths = lengths_of(arguments, shape, device)
    work = longest_work(arguments, shape, lengths, device)
    budget, beyond = budget_of(arguments, shape, work, device)
    if budget is None and (arguments.find_limit or arguments.apply_first_remedy):
        if not gpus:
            raise InputError(
                "--find-limit and --apply-first-remedy need --budget-gib or --budget-share on a host without a GPU"
            )
        budget = device.usable
    remedy = None
    if arguments.apply_first_remedy and budget is not None and footprint(shape, work).total > budget:
        remedy = first_remedy(shape, work, budget, gpus=gpus or ranks)
        if remedy is None:
            raise InputError(
                f"no change makes {max(lengths)} tokens fit into {format_value(budget, 'B')}; raise the budget or"
                " reduce the work"
            )
        work = remedy.work
    check_device(shape, work, budget, device)
    return Question(shape, lengths, work, budget, gpu=device.gpu, remedy=remedy, beyond_device=beyond)


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
    for name, most in (("--budget-gib", _MOST_GIB), ("--budget-share", _MOST_SHARES)):
        value = value_of(arguments, name)
        if value is not None and not 0 < value <= most:
            raise InputError(f"{name} {value:g}: must be above zero, and at most {most:,}")
    for name in ("--batch-size", "--tensor-parallel-gpus", "--chunk"):
        value = value_of(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: must be a whole number, 1 or more")
    if arguments.batch_size > _MOST_SEQUENCES:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at most {_MOST_SEQUENCES:,}")
    if arguments.compare_remedies < 0:
        raise InputError(f"--compare-remedies {arguments.compare_remedies}: must be 0 or more rounds")
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


def _device(arguments: argparse.Namespace, machine: Machine) -> SweepDevice:
    """One device of this host; ranks without a GPU share the free memory."""
    if machine.gpus:
        return SweepDevice(gpu=True, memory=machine.gpus[0].memory_bytes)
    return SweepDevice(gpu=False, memory=psutil.virtual_memory().available // arguments.tensor_parallel_gpus)


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
