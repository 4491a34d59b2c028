"""The peak of a piece of work, what fits into a budget, and the upper bound of decoding speed. No torch, no device."""

import sys
from bisect import bisect_right
from dataclasses import replace

from runner.hardware.boards import Board
from runner.sizing.inference import block_moments, logits_bytes
from runner.sizing.models import ModelShape
from runner.sizing.training import training_step
from runner.sizing.work import Footprint, ModelWork, kv_cache_bytes, optimizer_bytes, weight_bytes

# Memory of the allocator's rounding, the CUDA context and communicators on a GPU; a rule of thumb, not measured.
GPU_OVERHEAD_BYTES = 2 * 2**30
# Share of the memory that can grow with the prompt; left free when a longest prompt is predicted.
MARGIN = 0.05


def footprint(shape: ModelShape, work: ModelWork) -> Footprint:
    """The memory of one GPU at the peak of this prefill or training step."""
    weights = weight_bytes(shape, work)
    if work.training is not None:
        held = training_step(shape, work)
        beyond = held.activations + held.gradients
        return Footprint(
            weights=weights,
            kv_cache=0,
            activations=held.activations,
            logits=held.loss,
            gradients=held.gradients,
            optimizer=optimizer_bytes(shape, work),
            moment="the loss" if held.loss > beyond else held.moment,
        )
    moments, logits = block_moments(shape, work), logits_bytes(shape, work)
    fullest = max(moments, key=lambda name: moments[name])
    return Footprint(
        weights=weights,
        kv_cache=kv_cache_bytes(shape, work),
        activations=moments[fullest],
        logits=logits,
        moment="the logits" if logits > moments[fullest] else fullest,
    )


def largest_batch(shape: ModelShape, work: ModelWork, budget: int) -> int:
    """The largest batch whose peak fits into `budget` bytes; 0 if none does."""

    def total(batch: int) -> int:
        return footprint(shape, replace(work, batch=batch)).total

    # An upper bound: one byte per sequence.
    most = min(sys.maxsize - 1, max(0, budget))
    return bisect_right(range(1, most + 1), budget, key=total)


def longest(shape: ModelShape, work: ModelWork, budget: int, margin: float = MARGIN) -> int:
    """Tokens of the longest prompt that fits into `budget` bytes, up to the model's maximum; 0 if none does.

    Args:
        shape: of the model.
        work: at any length.
        budget: bytes on each GPU.
        margin: share of the budget beyond weights and optimizer state that is left free.
    """

    def total(tokens: int) -> int:
        return footprint(shape, replace(work, tokens=tokens)).total

    room = budget - weight_bytes(shape, work) - optimizer_bytes(shape, work)
    allowed = budget - margin * max(0, room)
    return bisect_right(range(1, shape.max_positions + 1), allowed, key=total)


def quadratic_term(work: ModelWork) -> str | None:
    """The term that is quadratic in the prompt's length, or None."""
    return "attention scores (heads × tokens × tokens)" if work.attention == "eager" else None


def bytes_per_step(shape: ModelShape, element: float, context: int, batch: int = 1) -> float:
    """Bytes that one decoding step of a batch must read: every weight once, and each sequence's KV cache.

    A step reads one row of the embedding per sequence; the rest is read only if it is also the output matrix.

    Args:
        shape: the model.
        element: bytes of a weight and of a cached value.
        context: tokens in each sequence's cache.
        batch: batch size in sequences.
    """
    unread = 0 if shape.tied_embeddings else (shape.vocab - batch) * shape.hidden
    return element * (shape.parameters - max(0, unread) + shape.cached_values(context, batch))


def decode_ceiling(
    shape: ModelShape, board: Board, element: float, context: int, batch: int = 1
) -> float | None:
    """Upper bound of a batch's tokens per second on one board: bandwidth ÷ bytes per step × batch.

    None if weights and cache do not fit into the board's memory.
    """
    if element * (shape.parameters + shape.cached_values(context, batch)) > board_budget(board):
        return None
    return board.memory_bandwidth / bytes_per_step(shape, element, context, batch) * batch


def board_budget(board: Board) -> int:
    """Bytes that a model may use on a board: the memory that torch reports, minus the overhead."""
    return board.memory_usable_bytes - GPU_OVERHEAD_BYTES
