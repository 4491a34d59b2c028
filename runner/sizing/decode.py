"""The upper bound of decoding speed: bytes that a step must read, and the memory bandwidth. No torch."""

from runner.hardware.boards import Board
from runner.sizing import board_budget
from runner.sizing.models import ModelShape


def bytes_per_step(shape: ModelShape, element: float, context: int, batch: int = 1) -> float:
    """Bytes that one decoding step of a batch must read: every weight once, and each sequence's KV cache.

    A step reads one row of the embedding per sequence; the rest is read only if it is also the output matrix.
    KV bytes = 2 × layers × kv_heads × head_dim × context × batch × element.

    Args:
        shape: the model.
        element: bytes of a weight and of a cached value.
        context: tokens in each sequence's cache.
        batch: batch size in sequences.
    """
    unread = 0 if shape.tied_embeddings else (shape.vocab - batch) * shape.hidden
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * context * batch
    return element * (shape.parameters - max(0, unread) + cache)


def decode_ceiling(
    shape: ModelShape, board: Board, element: float, context: int, batch: int = 1
) -> float | None:
    """Upper bound of a batch's tokens per second on one board: bandwidth ÷ bytes per step × batch.

    None if weights and cache do not fit into the board's memory.
    """
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * context * batch
    if element * (shape.parameters + cache) > board_budget(board):
        return None
    return board.memory_bandwidth / bytes_per_step(shape, element, context, batch) * batch
