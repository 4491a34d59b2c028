"""How much memory a model takes, by arithmetic alone: no torch, no device.

Formulas: KV bytes = 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element; logits of a prefill =
tokens × vocabulary × bytes; activations are what an eager block holds at its fullest, derived at `activations`.
"""

from dataclasses import dataclass

from runner.hardware.boards import Board
from runner.models import ModelShape

# What the allocator's rounding and the CUDA context and communicators take on a GPU; a rule of thumb, not measured.
GPU_OVERHEAD_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Work:
    """One prefill of `tokens` tokens in each of `batch` sequences.

    Attributes:
        weight_bytes, kv_bytes: bytes per element of weights (and activations), and of the KV cache.
        all_logits: the logits of every position are kept, not of the last alone.
        chunk: positions that go through the model at once; None for all of them.
        tensor_parallel: GPUs that share weights, heads and MLP.
    """

    tokens: int
    batch: int = 1
    weight_bytes: int = 2
    kv_bytes: int = 2
    all_logits: bool = True
    chunk: int | None = None
    tensor_parallel: int = 1


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU by what holds them. Activations and logits are not alive together: the larger one counts."""

    weights: int
    kv_cache: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return self.weights + self.kv_cache + max(self.activations, self.logits)


def kv_cache_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the KV cache on one GPU. Above kv_heads, tensor parallelism replicates it instead of splitting it."""
    heads = -(-shape.kv_heads // min(work.tensor_parallel, shape.kv_heads))
    return 2 * shape.layers * heads * shape.head_dim * work.tokens * work.batch * work.kv_bytes


def weight_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the weights on one GPU: blocks are split by tensor parallelism, embeddings and norms are not."""
    blocks = shape.layers * shape.block_parameters
    rest = shape.parameters - blocks
    return (-(-blocks // work.tensor_parallel) + rest) * work.weight_bytes


def activations(shape: ModelShape, work: Work) -> int:
    """Bytes of the fullest moment within an eager block without gradients.

    Alive all along are the embedded prompt, the block's input and the rotary cosines and sines. In the MLP of a gated
    block the residual, its norm, the activated gate, the up projection and their product come on top: in all
    4 × hidden + 3 × ff + 2 × head_dim a position (2 × ff without a gate). In attention it is the norm, q and k before
    and after rotation, and v; grouped keys and values are repeated for every query head over the whole cache, and a
    chunk that is not the whole prompt needs a mask of chunk × tokens.
    """
    chunk = min(work.chunk or work.tokens, work.tokens)
    positions = chunk * work.batch
    ff = -(-shape.ff // work.tensor_parallel)
    query = shape.heads * shape.head_dim // work.tensor_parallel
    key = max(1, shape.kv_heads // work.tensor_parallel) * shape.head_dim
    always = 2 * shape.hidden + 2 * shape.head_dim
    mlp = positions * (always + 2 * shape.hidden + (3 if shape.gated_mlp else 2) * ff)
    attention = positions * (always + shape.hidden + 2 * (query + key) + key)
    if query > key:
        attention += 2 * query * work.tokens * work.batch
    if chunk < work.tokens:
        attention += chunk * work.tokens
    return max(mlp, attention) * work.weight_bytes


def logits_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the logits, with the embedded prompt and the last hidden states before and after their norm."""
    positions = min(work.chunk or work.tokens, work.tokens) * work.batch
    hidden = 3 * positions * shape.hidden * work.weight_bytes
    rows = positions if work.all_logits else work.batch
    return hidden + rows * shape.vocab * work.weight_bytes


def footprint(shape: ModelShape, work: Work) -> Footprint:
    """What one GPU holds at the peak of this prefill."""
    return Footprint(
        weights=weight_bytes(shape, work),
        kv_cache=kv_cache_bytes(shape, work),
        activations=activations(shape, work),
        logits=logits_bytes(shape, work),
    )


def board_budget(board: Board) -> int:
    """Bytes that a model may take on a board: what torch can see of it, less the overhead."""
    usable = board.memory_usable_bytes or int(board.memory_label_gb * 1e9)
    return usable - GPU_OVERHEAD_BYTES
